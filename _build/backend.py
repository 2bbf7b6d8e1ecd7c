"""setuptools' build backend, which first sees to it that the sources of others are there. See thirdparty.py."""

import thirdparty
from setuptools import build_meta


def _requirements(config_settings=None):
    return thirdparty.requirements()


def _after_providing(hook):
    def run(*arguments, **named):
        thirdparty.provide()
        return hook(*arguments, **named)

    return run


# Not setuptools' own answer: it would run setup.py, which wants the sources that the requirements are to fetch.
get_requires_for_build_sdist = _requirements
get_requires_for_build_wheel = _requirements
get_requires_for_build_editable = _requirements
prepare_metadata_for_build_wheel = _after_providing(build_meta.prepare_metadata_for_build_wheel)
prepare_metadata_for_build_editable = _after_providing(build_meta.prepare_metadata_for_build_editable)
build_sdist = _after_providing(build_meta.build_sdist)
build_wheel = _after_providing(build_meta.build_wheel)
build_editable = _after_providing(build_meta.build_editable)
