"""Replace the encoders x264 and x265 beside PyAV's FFmpeg by libraries without content. The image's build runs it.

FFmpeg only decodes here, and the two encoders are under the GPL (docs/security.md). `libavcodec` still loads libraries
of their names and refers to their functions; each function of the replacements returns 0. FFmpeg calls one of them when
it lists its encoders, so they must exist.

    python replace_encoders.py FOLDER    the folder av.libs of PyAV's wheel; needs the package ziglang (a C compiler)
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ENCODERS = ("x264", "x265")
MAX_BYTES = 32_768


def replace_encoders(folder: Path) -> None:
    """Replace the libraries in `folder`; raise ValueError if they are not as expected."""
    (libavcodec,) = folder.glob("libavcodec-*.so*")
    content = libavcodec.read_bytes()
    for encoder in ENCODERS:
        (library,) = folder.glob(f"lib{encoder}-*.so*")
        names = sorted({each.decode() for each in re.findall(rb"(?<=\0)%s_\w+(?=\0)" % encoder.encode(), content)})
        if not names or library.name.encode() not in content:
            raise ValueError(f"{libavcodec.name} does not use {library.name}: adapt {Path(__file__).name}")
        library.unlink()
        compile_library(library, names)


def compile_library(path: Path, names: list[str]) -> None:
    """Write a shared library of functions with these names, which return 0."""
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch, "empty.c")
        source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in names))
        command = [sys.executable, "-m", "ziglang", "cc", "-shared", "-nostdlib", "-s", "-O1", "-mcpu=baseline"]
        folders = {"ZIG_GLOBAL_CACHE_DIR": scratch, "ZIG_LOCAL_CACHE_DIR": scratch, "PATH": "", "HOME": scratch}
        subprocess.run([*command, f"-Wl,-soname,{path.name}", "-o", path, source], env=folders, check=True)  # noqa: S603
    path.chmod(0o755)
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path.name} has {path.stat().st_size} bytes, more than functions without content need")


if __name__ == "__main__":
    replace_encoders(Path(sys.argv[1]))
