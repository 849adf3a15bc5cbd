"""Kernels in C, for processors: the library, and whether it may be used.

``setup.py`` builds the sources in this folder where there is a C compiler, once for each kind of processor
(:data:`attngraph.native.library.VARIANTS`); nothing is compiled at import. The library needs neither Python
nor torch to be built: matrix products and threads come, at run time, from the libraries that torch has
loaded. Where it is missing, damaged or built from other sources, everything runs in torch's operations.
"""
