"""The tabs of the page, one file each; ``build`` makes its components and what they do."""
