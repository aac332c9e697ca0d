"""The packages of the distribution.

`partbench.share` is the checkout itself, as far as `package-data` in pyproject.toml names its
files: the workflow, the configurations and the profiles lie where Snakemake and people look for
them, and an installed partbench has the same files.
"""

from setuptools import find_packages, setup

setup(
    script_name="setup.py",  # which is no module of `partbench.share`
    packages=[*find_packages(include=["partbench", "partbench.*"]), "partbench.share"],
    package_dir={"partbench.share": "."},
)
