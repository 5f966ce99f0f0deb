"""The studio: a web page and an HTTP interface to what the package does (``idpersona app``).

``engine`` works off jobs one after the other, ``sessions`` keeps what belongs to one browser, ``studio`` puts
the two together; ``page`` is the Gradio page, ``openai`` the HTTP interface, ``guard`` stands before both.
"""
