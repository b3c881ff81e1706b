"""The one thing that setup.cfg cannot say: loops over elements are compiled where there is a C compiler.

Without one everything works, on numpy alone and slower (coordinator/comparison/compiled.py).
"""

from setuptools import Extension, setup

NATIVE = "coordinator/comparison/native"

setup(
    ext_modules=[
        Extension(
            "stepalign.coordinator.comparison._kernels",
            sources=[f"{NATIVE}/kernels.c"],
            depends=[f"{NATIVE}/measures.h", f"{NATIVE}/scan.h", f"{NATIVE}/adam.h"],
            extra_compile_args=["-O3", "-ffp-contract=off", "-fno-trapping-math", "-fno-math-errno"],
            libraries=["m"],
            optional=True,
        )
    ]
)
