"""Compile the C of a package into its cffi module (out-of-line, API mode).

setuptools calls this for each extension named in pyproject.toml. The header of an extension's C files is
read twice: by gcc, and by cffi for the declarations, so headers hold plain declarations only; the lines of
a header between `#ifndef CFFI_CDEF` and its `#endif` are for gcc alone. No generated C stays in the tree.
"""

import re
import shutil
import sys
from pathlib import Path

from cffi import FFI
from setuptools import Extension
from setuptools.command import build_ext as setuptools_build_ext

PLAIN = {"leftfold.actors._fold"}
"""Extensions that speak to Python themselves."""
ONLY_FOR_GCC = re.compile(r"^#ifndef CFFI_CDEF\n.*?^#endif[^\n]*\n", re.MULTILINE | re.DOTALL)


class build_ext(setuptools_build_ext.build_ext):
    """Add cffi's glue to the sources of each extension, and say plainly when there is no compiler."""

    def build_extension(self, ext: Extension) -> None:
        """Write the glue beside the objects and compile everything into one module."""
        if not any(shutil.which(compiler) for compiler in ("cc", "gcc", "clang")):
            sys.exit(
                "leftfold needs a C compiler to install: `apt install gcc` (or clang), then again."
            )
        if ext.name in PLAIN:
            super().build_extension(ext)
            return
        headers = [Path(header) for header in ext.depends]
        ffi = FFI()
        for header in headers:
            ffi.cdef(ONLY_FOR_GCC.sub("", header.read_text()))
        ffi.set_source(ext.name, "\n".join(f'#include "{header.name}"' for header in headers))
        glue = Path(self.build_temp, ext.name.replace(".", "_") + "_glue.c")
        glue.parent.mkdir(parents=True, exist_ok=True)
        ffi.emit_c_code(str(glue))
        ext.sources.append(str(glue))
        super().build_extension(ext)
