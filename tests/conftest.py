from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from controlplane.harness import ControlPlane, Unavailable

_FAILED = pytest.StashKey[bool]()


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[ControlPlane]:
    """A real cluster that all tests share; each works with names of its own."""
    yield from _running(request, controllers=True)


@pytest.fixture
def controlled_cluster(request: pytest.FixtureRequest) -> Iterator[ControlPlane]:
    """A cluster of one's own with its controllers, which bind claims and finish deletions."""
    yield from _running(request, controllers=True)


@pytest.fixture
def uncached_cluster(request: pytest.FixtureRequest) -> Iterator[ControlPlane]:
    """A cluster of one's own, whose watches go to etcd: after a compaction they are answered 410."""
    yield from _running(request, apiserver_flags=("--watch-cache=false",))


@pytest.fixture
def own_cluster(request: pytest.FixtureRequest) -> Iterator[ControlPlane]:
    """A cluster of one's own, to be killed and changed at will."""
    yield from _running(request)


def _running(
    request: pytest.FixtureRequest, *, controllers: bool = False, apiserver_flags: tuple[str, ...] = ()
) -> Iterator[ControlPlane]:
    try:
        plane = ControlPlane(controllers=controllers, apiserver_flags=apiserver_flags)
    except Unavailable as error:
        if os.environ.get("CI"):
            pytest.fail(f"there is no real control plane: {error}", pytrace=False)
        pytest.skip(f"NOT PROVED AGAINST A REAL CONTROL PLANE: {error}")
    try:
        yield plane.start()
    finally:
        plane.stop(keep_logs=request.node.stash.get(_FAILED, False))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    report = yield
    if report.failed:
        item.stash[_FAILED] = item.session.stash[_FAILED] = True
    return report
