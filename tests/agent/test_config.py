"""The configuration: all mistakes at once, each with its key and the remedy, and secrets that stay secret."""

import pytest

from agent.appraisal import Terms
from agent.clock import Clock
from agent.config import Config, ConfigError, load, parse
from agent.options import read_options
from drivers.driver import FACTORY_CREDENTIALS, Credentials
from drivers.reading import Family
from tests.agent.processes import hashcost

SECRET = "correct horse battery staple"


def problems(text):
    with pytest.raises(ConfigError) as caught:
        parse(text, source="site.toml")
    return caught.value.problems


def problem(text):
    (only,) = problems(text)
    return only


def login(reference):
    return parse(f'[credentials.antminer]\nusername = "root"\n{reference}\n', source="site.toml")


def missing(reference):
    with pytest.raises(ConfigError) as caught:
        login(reference)
    return str(caught.value)


def test_an_empty_file_is_the_default_configuration():
    assert parse("", source="site.toml") == Config()


def test_every_section_is_read(monkeypatch):
    monkeypatch.setenv("SECRET", "secret")
    config = parse(
        """
        [scan]
        addresses = ["10.0.0.0/30", "10.1.0.7:14028"]
        interval_s = 600
        [poll]
        interval_s = 10
        deadline_s = 5
        workers = 10
        slow_interval_s = 60
        [market]
        difficulty = 150_000_000_000_000
        height = 930_000
        fees_btc = 0
        btc_usd = 100_000
        [power]
        price_usd_per_kwh = -0.01
        [economics]
        pool_fee = 0.02
        dev_fee = 0.025
        reject = 0.01
        overhead = 1.1
        sleep_power_w = 30
        machine_price_usd_per_ths = 15
        [groups]
        "hall 1" = ["10.0.0.1"]
        [credentials.whatsminer_v3]
        username = "super"
        password_env = "SECRET"
        """,
        source="site.toml",
    )
    assert config.scan.addresses == ["10.0.0.0/30", "10.1.0.7:14028"]
    assert (config.poll.interval_s, config.poll.workers) == (10, 10)
    assert config.market.difficulty == 1.5e14
    assert config.power.price_usd_per_kwh == -0.01
    assert config.groups == {"hall 1": ["10.0.0.1"]}
    assert config.credentials["whatsminer_v3"].password_env == "SECRET"


def test_fees_of_pool_and_firmware_are_taken_one_after_the_other():
    terms = parse("[economics]\npool_fee = 0.02\ndev_fee = 0.1\n", source="site.toml").economics.terms()
    assert terms.fee == pytest.approx(1 - 0.98 * 0.9)


def test_the_default_terms_are_those_of_the_appraisal():
    assert Config().economics.terms() == Terms()


def test_three_mistakes_are_told_at_once():
    found = problems(
        """
        [poll]
        workers = 0
        [power]
        price_usd_per_kwh = "cheap"
        [economics]
        poolfee = 0.02
        """
    )
    assert len(found) == 3
    assert any(line.startswith("poll.workers: ") and "(it is 0)" in line for line in found)
    assert any(line.startswith("power.price_usd_per_kwh: ") and "(it is 'cheap')" in line for line in found)
    assert any(line.startswith("economics.poolfee: unknown key; did you mean pool_fee?") for line in found)


def test_every_problem_names_the_file_on_a_line_of_its_own():
    with pytest.raises(ConfigError) as caught:
        parse("[poll]\nworkers = 0\n[power]\nprice = 1\n", source="site.toml")
    assert all(line.startswith("site.toml: ") for line in str(caught.value).splitlines())
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[pol]", "pol: unknown key; did you mean poll?"),
        ("[power]\nprice_usd_kwh = 0.06", "did you mean price_usd_per_kwh?"),
        ("[scan]\nzzz = 1", "scan.zzz: unknown key; known here: addresses, interval_s"),
        (
            "verbose = true",
            "verbose: unknown key; known here: alerts, control, credentials, curtailment, economics",
        ),
    ],
    ids=["section", "key", "nothing like it", "top level"],
)
def test_an_unknown_key_is_told_with_what_was_meant_or_what_there_is(text, said):
    assert said in problem(text)


@pytest.mark.parametrize("cents", ["6", "6.0", "-5"])
def test_cents_instead_of_dollars_are_caught_with_what_to_write(cents):
    said = problem(f"[power]\nprice_usd_per_kwh = {cents}")
    assert "power.price_usd_per_kwh" in said
    assert "6 cents is 0.06" in said
    assert f"(it is {cents})" in said


def test_per_cent_instead_of_a_fraction_is_caught_with_what_to_write():
    assert "2.5 % is 0.025" in problem("[economics]\npool_fee = 2.5")


@pytest.mark.parametrize(
    "difficulty", ["1.5056e12", "149.30", "1.5e17"], ids=["a misprint", "in trillions", "too many zeros"]
)
def test_an_implausible_difficulty_is_refused(difficulty):
    assert problem(f"[market]\ndifficulty = {difficulty}").startswith("market.difficulty: ")


@pytest.mark.parametrize(
    "text",
    [
        "[poll]\ninterval_s = inf",
        "[poll]\ninterval_s = nan",
        "[poll]\ninterval_s = true",
        '[poll]\ninterval_s = "30"',
        "[poll]\nworkers = 2.5",
        "[scan]\ninterval_s = inf",
        "[power]\nprice_usd_per_kwh = nan",
        "[economics]\nmachine_price_usd_per_ths = inf",
        "[scan]\naddresses = '10.0.0.1'",
        "[groups]\na = 7",
        "poll = 7",
        "[credentials.antminer]\npassword_env = 'X'",
        "[credentials.bitmain]\nusername = 'root'\npassword_env = 'X'",
    ],
)
def test_values_of_the_wrong_kind_are_refused(text, monkeypatch):
    monkeypatch.setenv("X", "secret")
    assert problem(text)


def test_a_read_may_not_take_longer_than_a_round():
    assert problem("[poll]\ninterval_s = 5\ndeadline_s = 6").startswith("poll: deadline_s (6)")


@pytest.mark.parametrize("expression", ["10.0.0.300", "10.0.5-1.1", "@/nonexistent", "::1", ""])
def test_bad_addresses_are_told_with_their_key_and_what_is_accepted(expression):
    for key, text in (("scan.addresses", "[scan]\naddresses"), ("groups.hall", "[groups]\nhall")):
        said = problem(f'{text} = ["10.0.0.1", "{expression}"]')
        assert said.startswith(f"{key}: ")
        assert "accepted: 10.0.0.0/22" in said


def test_broken_toml_is_told_with_its_line():
    said = problem("[poll]\nworkers = 3\n[power\n")
    assert said.startswith("not TOML: ")
    assert "line 3" in said


@pytest.mark.parametrize("content", [None, b"\xff\xfe"], ids=["missing", "not text"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, content):
    path = tmp_path / "site.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"site\.toml: cannot be read"):
        load(path)


def test_a_secret_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("MINER_PASSWORD", SECRET)
    assert login('password_env = "MINER_PASSWORD"').logins() == {
        Family.ANTMINER: Credentials(username="root", password=SECRET)
    }


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"], ids=["", "newline", "crlf"])
def test_a_secret_comes_from_a_file_without_its_line_ending(tmp_path, ending):
    (tmp_path / "secret").write_bytes(f" {SECRET} {ending}".encode())
    credentials = login(f'password_file = "{tmp_path}/secret"').logins()[Family.ANTMINER]
    assert credentials.password == f" {SECRET} "


def test_a_secret_that_is_not_in_the_environment_is_told_by_its_variable(monkeypatch):
    monkeypatch.delenv("MINER_PASSWORD", raising=False)
    said = missing('password_env = "MINER_PASSWORD"')
    assert "credentials.antminer: environment variable MINER_PASSWORD is not set" in said


def test_an_empty_secret_is_none(monkeypatch, tmp_path):
    monkeypatch.setenv("MINER_PASSWORD", "")
    assert "MINER_PASSWORD" in missing('password_env = "MINER_PASSWORD"')
    (tmp_path / "secret").write_text("\n")
    assert "is empty" in missing(f'password_file = "{tmp_path}/secret"')


def test_a_missing_secret_file_is_named(tmp_path):
    assert f"{tmp_path}/secret cannot be read" in missing(f'password_file = "{tmp_path}/secret"')


@pytest.mark.parametrize("name", ["antminer", "secrets_antminer"], ids=["alone", "of the directory"])
def test_a_password_may_be_a_credential_of_the_service(monkeypatch, tmp_path, name):
    (tmp_path / name).write_text("pässword\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    credentials = login('password_credential = "antminer"').logins()[Family.ANTMINER]
    assert credentials.password == "pässword"


def test_a_credential_that_is_not_there_is_said(monkeypatch, tmp_path):
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert "CREDENTIALS_DIRECTORY is not set" in missing('password_credential = "antminer"')
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert "antminer: not handed over by systemd" in missing('password_credential = "antminer"')
    for name in ("../shadow", "/etc/shadow", ".hidden", ""):
        assert "is no name of a credential" in missing(f'password_credential = "{name}"')


def test_a_secret_that_is_not_text_is_not_shown(tmp_path):
    (tmp_path / "secret").write_bytes(b"hunter2\xff")
    said = missing(f'password_file = "{tmp_path}/secret"')
    assert "not UTF-8" in said
    assert "hunter2" not in said


@pytest.mark.parametrize("reference", ["", 'password_env = "A"\npassword_file = "b"'], ids=["none", "both"])
def test_exactly_one_reference_to_a_secret_is_needed(reference):
    with pytest.raises(ConfigError, match=r"credentials\.antminer: give exactly one of password_env"):
        login(reference)


def test_all_missing_secrets_are_told_at_once_and_with_every_other_mistake(monkeypatch):
    for name in ("A", "B"):
        monkeypatch.delenv(name, raising=False)
    told = problems(
        '[credentials.antminer]\nusername="r"\npassword_env="A"\n'
        '[credentials.whatsminer_v2]\nusername="a"\npassword_env="B"\n'
        '[power]\nprice_usd_per_kwh = 6\n[scan]\naddresses = ["10.0.0.999", "x!!"]\n'
    )
    assert len(told) == 4
    (addresses,) = [line for line in told if "scan.addresses" in line]
    assert "10.0.0.999" in addresses
    assert "x!!" in addresses


def test_a_name_in_a_group_is_refused():
    assert "miner7.site.lan" in problem('[groups]\nhydro = ["10.0.0.1", "miner7.site.lan"]')


def test_a_password_in_the_file_itself_is_refused_and_not_repeated():
    with pytest.raises(ConfigError) as caught:
        login(f'password = "{SECRET}"')
    assert SECRET not in str(caught.value)
    assert "credentials.antminer.password: unknown key" in str(caught.value)
    assert "password_env" in str(caught.value)


def test_secrets_are_never_printed(monkeypatch):
    monkeypatch.setenv("MINER_PASSWORD", SECRET)
    config = login('password_env = "MINER_PASSWORD"')
    options = read_options(config, Clock())
    assert options.login(Family.ANTMINER).password == SECRET
    for shown in (config, config.logins(), options, options.login(Family.ANTMINER)):
        assert SECRET not in repr(shown)
        assert SECRET not in str(shown)
    assert SECRET not in config.model_dump_json()


def test_configured_logins_replace_the_factory_login_of_their_family_only(monkeypatch):
    monkeypatch.setenv("MINER_PASSWORD", SECRET)
    options = read_options(login('password_env = "MINER_PASSWORD"'), Clock())
    assert options.login(Family.ANTMINER) == Credentials(username="root", password=SECRET)
    assert options.login(Family.WHATSMINER_V2) == FACTORY_CREDENTIALS[Family.WHATSMINER_V2]


def test_reads_are_bounded_as_configured():
    config = parse("[poll]\ndeadline_s = 7\nslow_interval_s = 90\n", source="site.toml")
    options = read_options(config, Clock())
    assert (options.deadline_s, options.slow_interval_s) == (7, 90)


@pytest.mark.parametrize("command", ["run", "check", "scan"])
def test_every_command_tells_all_mistakes_and_exits_2(tmp_path, command):
    path = tmp_path / "site.toml"
    path.write_text(
        f"[poll]\nworkers = 0\nintervall_s = 3\n[power]\nprice_usd_per_kwh = 6\n"
        f'[credentials.antminer]\nusername = "r"\npassword = "{SECRET}"\n'
    )
    ran = hashcost(command, "--config", path, *(["127.0.0.1"] if command == "scan" else []))
    assert ran.returncode == 2
    for key in ("poll.workers", "poll.intervall_s", "power.price_usd_per_kwh", "credentials.antminer"):
        assert f"{path}: {key}" in ran.stderr
    assert SECRET not in ran.stderr + ran.stdout
    assert "Traceback" not in ran.stderr


def test_a_fleet_is_told_only_where_servers_are_given():
    assert parse("", source="test").fleet.servers == []
    with pytest.raises(ConfigError, match="fleet: give servers"):
        parse('[fleet]\nsite = "denver"', source="test")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('servers = ["10.0.0.5"]\norg = "acme"', "no address such as"),
        ('servers = ["nats://user:hunter2@h:4222"]\norg = "acme"', "no credentials in an address"),
        ('servers = ["nats://h:4222"]', "give org"),
        ('servers = ["nats://h:4222"]\norg = "acme"\nsite = "two words"', "fleet.site"),
        ('servers = ["nats://h:4222"]\norg = "acme"\nnkey_file = "/nowhere"', "/nowhere cannot be read"),
        (
            'servers = ["nats://h:4222"]\norg = "acme"\nnkey_file = "/dev/null"\ncreds_file = "/dev/null"',
            "not both",
        ),
    ],
)
def test_a_fleet_that_cannot_be_is_refused(text, why):
    with pytest.raises(ConfigError, match=why) as refused:
        parse(f"[fleet]\n{text}", source="test")
    assert "hunter2" not in str(refused.value)
