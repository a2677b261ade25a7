"""Kernels in C++, built by the system's compiler when they are first wanted."""
