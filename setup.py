"""What is installed: the folders of this checkout as ``paretune.search``, ``paretune.spaces`` and so on.

Everything else is said in ``pyproject.toml``; a list of packages under another name cannot be said there without
naming each of them.
"""

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

FOLDERS = (
    "spaces", "compressors", "engines", "profiles", "evaluators", "search", "reports", "monitoring", "pipeline",
    "commands", "demo",
)  # fmt: skip


class BuildPackages(build_py):
    """Leaves out the programs that stand beside the packages in a checkout, this one among them."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        """Of the checkout's own folder ``__init__`` alone."""
        modules = super().find_package_modules(package, package_dir)
        return [found for found in modules if package != "paretune" or found[1] == "__init__"]


names = find_packages(include=[*FOLDERS, *(f"{folder}.*" for folder in FOLDERS)])
setup(
    packages=["paretune", *(f"paretune.{name}" for name in names)],
    package_dir={"paretune": "."},
    package_data={
        "paretune": ["py.typed"],
        "paretune.demo": ["**/*"],
        "paretune.engines": ["vllm/*.json"],
        "paretune.profiles": ["*/*.json"],
        "paretune.reports": ["assets/*", "templates/*"],
    },
    include_package_data=False,
    cmdclass={"build_py": BuildPackages},
)
