"""Compile the C of a package into its extension module: with cffi's glue (out-of-line, API mode), or as it is.

setuptools calls this for each extension named in pyproject.toml. An extension whose C makes the module itself,
by a `PyInit_` of its name, needs no glue. For the others the headers are read twice: by gcc, and by cffi for the
declarations, so these headers hold plain declarations only; the lines of a header between `#ifndef CFFI_CDEF`
and its `#endif` are for gcc alone. No generated C stays in the tree.
"""

import re
import shutil
import sys
from pathlib import Path

from cffi import FFI
from setuptools import Extension
from setuptools.command import build_ext as setuptools_build_ext

ONLY_FOR_GCC = re.compile(r"^#ifndef CFFI_CDEF\n.*?^#endif[^\n]*\n", re.MULTILINE | re.DOTALL)


class build_ext(setuptools_build_ext.build_ext):
    """Add cffi's glue to the sources that need it, and say plainly when there is no compiler."""

    def build_extension(self, ext: Extension) -> None:
        """Compile everything into one module, with the glue that it needs."""
        if not any(shutil.which(compiler) for compiler in ("cc", "gcc", "clang")):
            sys.exit(
                "leftfold needs a C compiler to install: `apt install gcc` (or clang), then again."
            )
        if not makes_itself(ext):
            ext.sources.append(str(self.write_glue(ext)))
        super().build_extension(ext)

    def write_glue(self, ext: Extension) -> Path:
        """The C that shows what the headers declare to Python."""
        headers = [Path(header) for header in ext.depends]
        ffi = FFI()
        for header in headers:
            ffi.cdef(ONLY_FOR_GCC.sub("", header.read_text()))
        ffi.set_source(ext.name, "\n".join(f'#include "{header.name}"' for header in headers))
        glue = Path(self.build_temp, ext.name.replace(".", "_") + "_glue.c")
        glue.parent.mkdir(parents=True, exist_ok=True)
        ffi.emit_c_code(str(glue))
        return glue


def makes_itself(ext: Extension) -> bool:
    """Whether the C of an extension is a module without any glue."""
    start = "PyInit_" + ext.name.rpartition(".")[2]
    return any(start in Path(source).read_text() for source in ext.sources)
