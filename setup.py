"""The contents and requirements of the package. torch-scatter is an extra that nothing here needs."""

import hashlib
import platform
import re
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

# One package is installed. These three of its packages are folders next to it (attngraph/_siblings.py).
FOLDERS = ["adapters", "analysis", "experiments"]
PACKAGES = find_packages(include=["attngraph", "attngraph.*"])
PACKAGES += [
    f"attngraph.{name}" for name in find_packages(include=[*FOLDERS, *(f"{name}.*" for name in FOLDERS)])
]

# `make test-lowest` tests the lower bounds of CORE and EXTRAS; the next major versions are untested.
CORE = [  # to read graphs, show them, train adapters, and compute statistics of tensors
    "torch>=2.13,<3",
    "torch-geometric>=2.6,<3",
    "transformers>=5.23,<6",  # its key/value caches have the layers that degrees are kept in since then
    "peft>=0.21,<1",  # its tuners map the names in checkpoints themselves since then
    "safetensors>=0.8",
    "networkx>=3.2",
    "numpy>=1.26",
    "matplotlib>=3.8",
    "pillow>=11",
    "tqdm>=4.66",
]
# Extras; attngraph/extras.py names the one that brings a missing package.
EXTRAS = {
    "experiments": [  # every command, and statistics as data frames
        "torchvision>=0.28",
        "accelerate>=1.10,<2",
        "filelock>=4,<5",
        "pydantic>=2.7",
        "pyyaml>=6.0",
        "pandas>=2.2",
        "pyarrow>=15",
        "scipy>=1.11.1",
        "statsmodels>=0.14.2",  # Holm's correction
        "jinja2>=3.1",
        "scikit-learn>=1.4",
        "easy-vqa>=1.0",
        "tensorboard>=2.16.2",
    ],
    "tsne": ["openTSNE>=1.0"],
    "captions": ["pycocoevalcap>=1.2"],  # 100 MB: scores of captions
    "umap": ["umap-learn>=0.5.6"],
    "tagger": ["spacy>=3.7"],
    "hub": ["datasets>=3.0"],  # data sets of the Hugging Face hub
    "tracking": ["wandb>=0.17", "mlflow>=2.14"],  # for --track
}

TEST = [
    "pytest>=8.0",
    "pytest-timeout>=2.2",
    "pytest-xdist>=3.6",  # make test runs a worker for each core
    "hypothesis>=6.100",
    "setuptools>=77",
    "wheel>=0.43",
    "num2words>=0.5.13",  # SmolVLM's processor asks for it
]
LINT = ["ruff>=0.12", "mypy>=1.15"]
DOCS = [
    "sphinx>=8.2",
    "myst-parser>=4.0",
    "furo>=2024.8",
    "latex2mathml>=3.77",  # formulas without a script
    "nbclient>=0.10",  # these three run the notebook
    "nbformat>=5.10",
    "ipykernel>=6.29",
]
# Drives a Chromium that is installed already; without it those tests are skipped.
BROWSER = ["playwright>=1.44"]

# The public repository on GitHub, such as "https://github.com/OWNER/attngraph"; links of the package and of
# the site follow from it. Empty as long as there is none.
REPOSITORY = ""
VERSION = "0.1.0"


def project_urls(repository: str) -> dict[str, str]:
    """Links on the package's page of an index."""
    if not repository:
        return {}
    names = {"Source": "", "Issues": "/issues", "Changelog": f"/blob/v{VERSION}/CHANGELOG.md"}
    return {name: f"{repository}{path}" for name, path in names.items()}


def long_description(repository: str) -> str:
    """The README, with links to files of the repository, which relative links outside of it do not reach."""
    readme = Path(__file__).parent / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    if not repository:
        return text
    text = re.sub(r"(!\[[^\]]*\]\()(?![a-z]+:|#)", rf"\g<1>{repository}/raw/v{VERSION}/", text)
    return re.sub(r"(?<=\]\()(?![a-z]+:|#)", f"{repository}/blob/v{VERSION}/", text)


# Kernels in C, loaded by attngraph/native/library.py. They need neither Python nor torch, so any C compiler
# builds them in seconds, and without one (optional=True) the package is whole, only slower.
NATIVE = Path("attngraph/native")
SOURCES = sorted(Path(__file__).parent.joinpath(NATIVE).glob("*.[ch]"))
SOURCE_HASH = hashlib.sha256(b"".join(path.read_bytes() for path in SOURCES)).hexdigest()
VARIANTS = {"plain": []}
if platform.machine().lower() in ("x86_64", "amd64"):
    VARIANTS["avx2"] = ["-mavx2", "-mfma"]
# The last three let loops of comparisons and roots become vector instructions; none of them reorders sums.
FLAGS = ["-std=gnu11", "-O3", "-fopenmp-simd", "-fvisibility=hidden", "-Wall"]
FLAGS += ["-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros"]


class BuildKernels(build_ext):
    """Writes the hash of each library next to it; a library without it is not loaded."""

    def run(self):
        super().run()
        for extension in self.extensions:
            built = Path(
                self.build_lib, *extension.name.split(".")[:-1], self.get_ext_filename(extension.name)
            )
            for path in {built, Path(self.get_ext_fullpath(extension.name))}:
                if path.is_file():
                    digest = hashlib.sha256(path.read_bytes()).hexdigest()
                    path.with_name(f"{path.name}.sha256").write_text(digest, encoding="ascii")


setup(
    name="attngraph",
    version=VERSION,
    description="Attention as a graph: graph neural networks as adapters for frozen vision-language models",
    long_description=long_description(REPOSITORY),
    long_description_content_type="text/markdown",
    project_urls=project_urls(REPOSITORY),
    author="attngraph authors",
    license="MIT",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=">=3.11",
    ext_modules=[
        Extension(
            f"attngraph.native._kernels_{name}",
            [str(NATIVE / path.name) for path in SOURCES if path.suffix == ".c"],
            depends=[str(NATIVE / path.name) for path in SOURCES],
            define_macros=[("ATTNGRAPH_SOURCE", f'"{SOURCE_HASH}"')],
            extra_compile_args=FLAGS + flags,
            optional=True,
        )
        for name, flags in VARIANTS.items()
    ],
    cmdclass={"build_ext": BuildKernels},
    packages=PACKAGES,
    package_dir={f"attngraph.{name}": name for name in FOLDERS},
    package_data={
        "attngraph": ["py.typed", "native/*.c", "native/*.h"],
        "attngraph.analysis": ["viewer.html"],
        "attngraph.experiments": [
            "**/*.json",
            "**/*.yaml",
            "**/*.css",
            "**/*.jinja",
            "checkpoints/mini-blip/*",
        ],
    },
    # Results and the second model are in the repository; states are those of unfinished pre-trainings.
    exclude_package_data={"attngraph.experiments": ["results/*", "checkpoints/mini-mplug/*", "*.pt"]},
    install_requires=CORE,
    extras_require={
        **EXTRAS,
        "all": [line for lines in EXTRAS.values() for line in lines],
        "scatter": ["torch-scatter>=2.1.2"],  # from source, after torch: pip install --no-build-isolation
        # kernels for NVIDIA GPUs; PyTorch's wheels for CUDA bring it, those for the CPU do not
        "gpu": ["triton>=3.6; platform_system == 'Linux'"],
        "slurm": ["submitit>=1.5"],
        "ray": ["ray>=2.40"],
        "test": TEST,
        "lint": LINT,
        # Jupyter, and the packages that docs/notebooks use
        "notebook": [*EXTRAS["experiments"], *EXTRAS["tsne"], "notebook>=7"],
        "docs": DOCS,
        "browser": BROWSER,
        "dev": [line for name in ("experiments", "tsne", "captions") for line in EXTRAS[name]]
        + TEST
        + LINT
        + DOCS
        + BROWSER
        + ["pre-commit>=3.7"],
    },
    entry_points={
        "console_scripts": ["attngraph = attngraph.experiments.cli:main"],
        "lmms_eval.models": ["attngraph = attngraph.experiments.lmms_eval:manifest"],
    },
)
