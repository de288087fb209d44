"""Plug-ins are found by entry point alone, loaded late, and never guessed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from wsiseg.errors import UnknownName
from wsiseg.plugins import load_plugin, plugin_names

_FOLDERS = Path(__file__).parent / "fake_plugins"


@pytest.fixture
def first_package(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install a package as pip would: files and a dist-info on the path."""
    monkeypatch.syspath_prepend(_FOLDERS / "one")
    yield
    sys.modules.pop("wsiseg_fake_one", None)


@pytest.fixture
def second_package(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install another package that claims one of the first one's names."""
    monkeypatch.syspath_prepend(_FOLDERS / "two")
    yield
    sys.modules.pop("wsiseg_fake_two", None)


def test_shipped_plug_ins_are_registered() -> None:
    assert set(plugin_names("wsiseg.slides")) >= {"openslide", "tiffslide", "image"}
    assert set(plugin_names("wsiseg.exporters")) >= {"geojson", "ome-zarr"}
    assert "hovernet" in plugin_names("wsiseg.models")


@pytest.mark.parametrize("group", ["wsiseg.slides", "wsiseg.exporters", "wsiseg.models"])
def test_every_shipped_plug_in_loads(group: str) -> None:
    for name in plugin_names(group):  # type: ignore[arg-type]
        assert callable(load_plugin(group, name))  # type: ignore[arg-type]


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UnknownName) as caught:
        load_plugin("wsiseg.exporters", "shapefile")
    assert "'shapefile'" in str(caught.value)
    for known in plugin_names("wsiseg.exporters"):
        assert known in str(caught.value)


def test_a_name_of_another_group_is_unknown() -> None:
    with pytest.raises(UnknownName, match=r"wsiseg\.slides"):
        load_plugin("wsiseg.slides", "geojson")


@pytest.mark.usefixtures("first_package")
def test_an_installed_package_is_found_loaded_late_and_used() -> None:
    assert "fake" in plugin_names("wsiseg.exporters")
    assert "wsiseg_fake_one" not in sys.modules
    assert load_plugin("wsiseg.exporters", "fake")() == "one"


def test_without_the_package_its_name_is_unknown() -> None:
    assert "fake" not in plugin_names("wsiseg.exporters")
    with pytest.raises(UnknownName):
        load_plugin("wsiseg.exporters", "fake")


@pytest.mark.usefixtures("first_package", "second_package")
def test_a_name_of_two_packages_is_refused_and_both_are_named() -> None:
    assert plugin_names("wsiseg.exporters").count("shared-name") == 1
    with pytest.raises(UnknownName, match="ambiguous") as caught:
        load_plugin("wsiseg.exporters", "shared-name")
    assert "wsiseg_fake_one:export_nothing" in str(caught.value)
    assert "wsiseg_fake_two:export_nothing" in str(caught.value)
    assert load_plugin("wsiseg.exporters", "fake")() == "one"


@pytest.mark.usefixtures("second_package")
def test_a_broken_package_harms_only_who_asks_for_it() -> None:
    assert load_plugin("wsiseg.exporters", "shared-name")() == "two"
    with pytest.raises(ModuleNotFoundError, match="wsiseg_fake_two_is_not_there"):
        load_plugin("wsiseg.exporters", "broken")
