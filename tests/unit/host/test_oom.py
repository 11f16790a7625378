# SPDX-License-Identifier: Apache-2.0
"""The OOM score of the process."""

from structlog.testing import capture_logs

from kubeproxy_bpf.host.oom import set_oom_score


def test_score_is_written(tmp_path):
    """As the kernel reads it."""
    path = tmp_path / "oom_score_adj"
    path.write_text("0\n")

    set_oom_score(-999, path)

    assert "-999\n" == path.read_text()


def test_no_score_writes_nothing(tmp_path):
    """None leaves what the kubelet has set."""
    path = tmp_path / "oom_score_adj"

    set_oom_score(None, path)

    assert not path.exists()


def test_refusal_is_only_logged(tmp_path):
    """A proxy without CAP_SYS_RESOURCE runs all the same."""
    with capture_logs() as logs:
        set_oom_score(-999, tmp_path)

    assert ["oom_score_not_set"] == [entry["event"] for entry in logs]
