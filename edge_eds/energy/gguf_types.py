"""The gguf package's names and sizes of GGML types, without the rest of that package.

Importing gguf.constants runs gguf first, whose writers, vocabularies and YAML take longer than a whole header does to
read; every chat would wait for them. So the one module is loaded from its file, under a name of ours.
"""

from __future__ import annotations

from enum import IntEnum
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType


def _load_constants() -> ModuleType:
    package = find_spec("gguf")
    path = Path(package.origin).with_name("constants.py") if package and package.origin else None
    spec = spec_from_file_location(f"{__name__}.constants", path) if path and path.is_file() else None
    if spec is None or spec.loader is None:  # laid out otherwise, as in an archive: the long way works there
        import gguf.constants

        return gguf.constants
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_constants = _load_constants()
GGMLQuantizationType: type[IntEnum] = _constants.GGMLQuantizationType
GGML_QUANT_SIZES: dict[IntEnum, tuple[int, int]] = _constants.GGML_QUANT_SIZES  # elements and bytes of a block
LlamaFileType: type[IntEnum] = _constants.LlamaFileType
