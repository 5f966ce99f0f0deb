"""``idpersona dataset``: from a heap of photos to a checked set of faces with captions, people and pairs.

A build has two halves. *Reading* looks at every photo alone and keeps or rejects it (``source*``, ``rules``,
``look``); it is done in chunks of fixed size by any number of processes or machines (``chunks``, ``engine``,
``place``). *Finishing* looks at all kept photos together: near-duplicates, who is who, pairs (``nearness``,
``duplicates``, ``grouping``, ``pairs``), and writes the dataset (``finish``, ``report``).
"""
