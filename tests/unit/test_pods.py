"""What is made of kubectl's answers; tests/cluster/test_kubernetes.py runs the profile."""

import json

import pytest

from trove_steps import pods


@pytest.fixture
def status(program, monkeypatch, capsys):
    """Return the exit status, and what is printed, for an error of kubectl."""

    def ask(error: str | None) -> tuple[int, str, str]:
        if error is not None:
            program("kubectl", f"cat >&2 <<'END'\n{error}\nEND\nexit 1")
        monkeypatch.setattr("sys.argv", ["pods", "status", "job"])
        code = pods.main()
        printed = capsys.readouterr()
        return code, printed.out.strip(), printed.err.strip()

    return ask


@pytest.mark.parametrize(
    "error",
    [
        "Unable to connect to the server: dial tcp 10.0.0.1:6443: i/o timeout",
        "The connection to the server 10.0.0.1:6443 was refused - did you specify the right host or port?",
        "Error from server (ServiceUnavailable): the server is currently unable to handle the request",
        "Error from server (InternalError): an error on the server",
        "Unable to connect to the server: net/http: TLS handshake timeout",
    ],
)
def test_a_server_that_is_away_says_nothing_about_a_job(status, error):
    assert status(error) == (0, "running", "")


def test_a_job_that_is_gone_has_failed(status):
    assert status('Error from server (NotFound): jobs.batch "job" not found')[:2] == (0, "failed")


@pytest.mark.parametrize(
    "error",
    [
        'Error from server (Forbidden): jobs.batch "job" is forbidden: User "x" cannot get resource "jobs"',
        "error: You must be logged in to the server (Unauthorized)",
        'error: context "nowhere" does not exist',
    ],
)
def test_what_asking_again_does_not_mend_ends_the_run(status, error):
    code, said, told = status(error)
    assert (code, said) == (1, "")
    assert told == f"error: kubectl get: {error}"


def test_without_kubectl(status, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    code, said, told = status(None)
    assert (code, said) == (1, "")
    assert "kubectl can't be run" in told


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"succeeded": 1}, "success"),
        ({"failed": 1}, "failed"),
        ({"active": 1}, "running"),
        ({}, "running"),
    ],
)
def test_states(status, program, state, said):
    program("kubectl", f"echo '{json.dumps({'status': state})}'")
    assert status(None)[:2] == (0, said)
