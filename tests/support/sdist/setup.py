"""A small distribution with an extension module, built inside sandboxes by the tests."""

from setuptools import Extension, setup

setup(
    name="answer",
    version="1.0",
    package_dir={"": "src"},
    packages=["answer"],
    ext_modules=[Extension("answer._answer", ["src/answer/answer.c"])],
)
