"""Who gets in, from where, and what is kept of secrets."""

import logging
import stat
from itertools import chain, pairwise
from pathlib import Path
from socket import IPPROTO_TCP

import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from sqlalchemy import select

from feedback_world import World, new_key, pair
from handrail.errors import InputError
from handrail.feedback import provenance
from handrail.feedback.kinds import Item, TaskSettings
from handrail.feedback.server import ServerSettings
from handrail.feedback.server.security import COOKIE, SMALL
from handrail.feedback.server.serve import bound
from handrail.feedback.store import Database, people, projects
from handrail.feedback.store.tables import METADATA
from handrail.records import Prompt

HERE = "http://127.0.0.1"
OWN = {"origin": HERE}
OPEN = {"/api/openapi.json"}  # and pages: what everybody may ask for


def routes(app: object) -> list[APIRoute]:
    """Every route of the app, also of routers within it."""
    found, waiting = [], list(app.routes)
    while waiting:
        route = waiting.pop()
        if isinstance(route, APIRoute):
            found.append(route)
        else:
            waiting += getattr(getattr(route, "original_router", None) or getattr(route, "router", None), "routes", [])
    return found


def operations(world: World) -> list[tuple[str, str]]:
    """Method and address of every operation, with something in the place of each parameter."""
    values = {"task": str(world.task.id), "assignment": "x" * 22, "project": "support", "pseudonym": "labeller-none", "kind": "link"}
    values |= {"item": "x" * 22, "snapshot": "0" * 16, "flag": "1"}
    schema = world.client().get("/api/openapi.json").json()
    found = []
    for path, methods in schema["paths"].items():
        for name, value in values.items():
            path = path.replace("{" + name + "}", value)
        found += [(method.upper(), path) for method in methods]
    return found


def test_every_operation_of_the_api_demands_what_it_must(world: World):
    world.make_task(pair(1))
    inside = operations(world)
    assert len(inside) >= 20 and all("{" not in path for _, path in inside)
    listed = {route.path for route in routes(world.app()) if route.path.startswith("/api")}
    assert listed <= set(world.client().get("/api/openapi.json").json()["paths"]), "no operation hides from this test"
    stranger, labeller = world.client(), world.client(world.labeller())
    schema = stranger.get("/api/openapi.json").json()["paths"]
    every = [operation for methods in schema.values() for operation in methods.values()]
    admins = {operation["operationId"] for operation in every if "running projects" in operation["tags"]}
    assert len(admins) >= 12 and len({operation["operationId"] for operation in every}) == len(inside)
    for (method, path), operation in zip(inside, every, strict=True):
        answer = stranger.request(method, path, headers=OWN, json={})
        assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer", (method, path, answer.text)
        assert set(answer.json()) == {"found", "allowed", "remedy"}
        answer = labeller.request(method, path, json={})
        assert (answer.status_code == 403) == (operation["operationId"] in admins), (method, path, answer.text)


@pytest.mark.parametrize("token", ["", "x", "Bearer", "é", "a b", "x" * 10_000, "' or 1=1 --"])
def test_a_wrong_token_lets_nobody_in(world: World, token: str):
    for headers in ({"authorization": f"Bearer {token}".encode()}, {"authorization": f"Basic {token}".encode()}):
        assert world.client().get("/api/me", headers=headers).status_code == 401
    assert world.client().get("/api/me", headers={"cookie": f"{COOKIE}={token}".encode()}).status_code == 401


def test_each_secret_is_good_for_its_own_use_alone(world: World):
    person = world.labeller()
    link, session, token = (people.issue(world.db, person, kind) for kind in ("link", "session", "token"))
    client = world.client()

    def bearer(secret: str) -> int:
        return client.get("/api/me", headers={"authorization": f"Bearer {secret}"}).status_code

    def cookie(secret: str) -> int:
        return client.get("/api/me", headers={"cookie": f"{COOKIE}={secret}"}).status_code

    assert [bearer(s) for s in (link, session, token)] == [401, 401, 200]
    assert [cookie(s) for s in (link, session, token)] == [401, 200, 401]
    assert [client.get(f"/enter/{s}").status_code for s in (session, token)] == [404, 404]


def test_a_link_is_good_once_and_a_look_does_not_use_it_up(world: World):
    link = people.issue(world.db, world.labeller(), "link")
    client = world.client()
    for _ in range(3):
        assert client.get(f"/enter/{link}").status_code == 200
    entered = client.post(f"/enter/{link}", headers=OWN, follow_redirects=False)
    assert entered.status_code == 303
    cookie = entered.headers["set-cookie"].lower()
    assert f"{COOKIE}=" in cookie and "httponly" in cookie and "samesite=lax" in cookie and "path=/" in cookie and "secure" not in cookie
    assert client.get("/api/me").status_code == 200
    assert world.client().post(f"/enter/{link}", headers=OWN).status_code == 404
    client.post("/leave", headers=OWN, follow_redirects=False)
    assert client.get("/api/me").status_code == 401
    client.cookies.set(COOKIE, cookie.partition("=")[2].partition(";")[0])
    assert client.get("/api/me").status_code == 401, "the session has ended, not only its cookie"


def test_the_cookie_goes_over_https_alone_where_the_app_is_served_so(world: World):
    link = people.issue(world.db, world.labeller(), "link")
    client = TestClient(world.app(public="https://labels.example.org"), "http://labels.example.org")
    entered = client.post(f"/enter/{link}", headers={"origin": "http://labels.example.org"}, follow_redirects=False)
    assert "secure" in entered.headers["set-cookie"].lower()


def test_secrets_expire(world: World):
    person = world.labeller()
    for kind, life in people.LIFE.items():
        secret = people.issue(world.db, person, kind)
        world.clock.wait(life - 1)
        assert people.known(world.db, secret, kind) == person
        world.clock.wait(1)
        assert people.known(world.db, secret, kind) is None and people.enter(world.db, secret) is None


def test_deleting_a_person_ends_their_sessions_at_once(world: World):
    world.make_task(pair(1))
    person, admin = world.labeller(), world.client(world.admin())
    client = world.client(person)
    assert client.get("/api/me").status_code == 200
    assert admin.delete(f"/api/people/{person.pseudonym}").status_code == 204
    assert client.get("/api/me").status_code == 401
    assert client.post(f"/api/tasks/{world.task.id}/next", json={}).status_code == 401


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "", "localhost.", "evil@127.0.0.1", "[::2]", "[", "10.0.0.1:80", "127.0.0.1\u00e9"]
)
def test_another_host_name_is_refused(world: World, host: str):
    answer = world.client().get("/api/openapi.json", headers={"host": host.encode()})
    assert answer.status_code == 421 and "content-security-policy" in answer.headers


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8000", "LOCALHOST", "[::1]:8000", "labels.example.org"])
def test_its_own_host_names_are_let_in(world: World, host: str):
    client = world.client(public="https://labels.example.org/")
    assert client.get("/api/openapi.json", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin",
    [
        None,
        "",
        "null",
        "http://evil.example",
        "http://127.0.0.1:81",
        "http://127.0.0.1.evil.example",
        "http://[",
        "//127.0.0.1",
        "127.0.0.1",
    ],
)
def test_a_change_from_another_page_is_refused(world: World, origin: str | None):
    """Though the browser sends the cookie along."""
    world.make_task(pair(1))
    client = world.client()
    client.cookies.set(COOKIE, people.issue(world.db, world.labeller(), "session"))
    headers = {} if origin is None else {"origin": origin}
    for extra in ({}, {"authorization": "Basic eDp4"}, {"authorization": "Bearer"}):
        answer = client.post(f"/api/tasks/{world.task.id}/next", json={}, headers=headers | extra)
        assert answer.status_code == 403
    assert client.post(f"/api/tasks/{world.task.id}/next", json={}, headers=OWN).status_code == 200


def test_every_answer_has_the_headers_that_bind_the_browser(world: World):
    world.make_task(pair(1))
    client, admin = world.client(), world.client(world.admin())
    answers = [client.get(path) for path in ("/api/me", "/api/openapi.json", "/enter/x", "/nowhere", "/static/nothing.js")]
    answers += [client.post("/leave"), client.request("TRACE", "/api/me"), admin.get("/api/people"), admin.put("/api/people")]
    answers += [admin.post("/api/projects", content=b"{", headers={"content-type": "application/json"})]
    assert [answer.status_code for answer in answers] == [401, 200, 404, 404, 404, 403, 403, 200, 405, 422]
    for answer in answers:
        policy = dict(part.strip().partition(" ")[::2] for part in answer.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == "'self'" and "unsafe" not in str(policy)
        assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["x-frame-options"] == "DENY" and "server" not in answer.headers
        assert answer.headers.get("cache-control") == "no-store" or "/static/" in str(answer.url)


def test_a_body_has_an_end(world: World):
    world.make_task(pair(1))
    (given,) = world.give(person := world.labeller())
    client, admin = world.client(person, largest=2 * SMALL), world.client(world.admin(), largest=2 * SMALL)
    cases = [(client, f"/api/assignments/{given.id}", SMALL), (client, f"/api/tasks/{world.task.id}/next", SMALL)]
    for who, path, largest in [*cases, (admin, f"/api/tasks/{world.task.id}/items", 2 * SMALL)]:
        headers = {"content-type": "application/json"}
        assert who.post(path, content=b" " * largest, headers=headers).status_code == 422
        assert who.post(path, content=b" " * (largest + 1), headers=headers).status_code == 413
        pieces = (b" " * 2**20 for _ in range(largest // 2**20 + 1))
        assert who.post(path, content=pieces, headers=headers).status_code == 413, "also where its length is not told before"


def test_labellers_see_their_own_projects_alone(world: World):
    world.make_task(pair(1))
    mine = world.labeller()
    projects.make_project(world.db, "secret-project")
    hidden = projects.make_task(world.db, "secret-project", "hidden", TaskSettings(kind="compare"))
    projects.take_in(world.db, hidden, [pair(2)])
    client, admin = world.client(mine), world.client(world.admin())
    seen = client.get("/api/me").json()
    assert [task["project"] for task in seen["tasks"]] == ["support"]
    for method, path, body in (("GET", "", None), ("POST", "/next", {})):
        answer = client.request(method, f"/api/tasks/{hidden.id}{path}", json=body)
        absent = client.request(method, f"/api/tasks/{hidden.id + 1000}{path}", json=body)
        assert answer.status_code == absent.status_code == 404
        assert answer.text.replace(str(hidden.id), "N") == absent.text.replace(str(hidden.id + 1000), "N"), "not even that it is there"
    (theirs,) = admin.post(f"/api/tasks/{hidden.id}/next", json={}).json()["items"]
    assert client.get(f"/api/assignments/{theirs['id']}").status_code == 404
    assert client.post(f"/api/assignments/{theirs['id']}", json={"key": new_key(), "act": "skip"}).status_code == 404
    people.join(world.db, mine, "secret-project")
    assert client.get(f"/api/tasks/{hidden.id}").status_code == 200


SQL = [
    "'",
    '"',
    "' or '1'='1",
    "1; drop table people; --",
    "%27%20or%201=1",
    "\\",
    "%",
    "_",
    "') union select digest from keys --",
    "{x}",
    "$1",
    ":x",
]


def test_sql_in_any_parameter_is_a_text(world: World):
    """Every operation, each parameter of its path and every text of its body."""
    world.make_task(pair(1))
    admin = world.client(world.admin())
    schema = admin.get("/api/openapi.json").json()["paths"]
    bodies = {
        "/api/projects": lambda s: {"name": s, "title": s},
        "/api/people": lambda s: {"name": s, "pseudonym": s, "projects": [s]},
        "/api/projects/{project}/tasks": lambda s: {"name": s, "settings": {"kind": "rate", "title": s}},
        "/api/projects/{project}/snapshots": lambda s: {"rules": {"tasks": [s], "without": [s]}},
        "/api/assignments/{assignment}": lambda s: {"key": s, "act": "skip", "reason": s},
    }
    before = {task["name"] for task in admin.get("/api/projects/support/tasks").json()}
    for text in SQL:
        for path, methods in schema.items():
            for method, operation in methods.items():
                there = path
                for parameter in operation.get("parameters", []):
                    if parameter["in"] == "path":
                        there = there.replace("{" + parameter["name"] + "}", text.replace("/", "").replace("?", "").replace("#", ""))
                body = bodies.get(path, lambda s: {"text": s})(text)
                answer = admin.request(method.upper(), there, json=body, params={"limit": text, "before": text})
                assert answer.status_code in (200, 201, 404, 405, 422), (method, there, answer.text)
    assert {task["name"] for task in admin.get("/api/projects/support/tasks").json()} == before
    assert admin.post("/api/people", json={"name": "' or '1'='1"}).status_code == 201, "a name is a text"
    with world.db.read() as connection:
        assert all(connection.execute(select(table)).all() is not None for table in METADATA.sorted_tables)


# What is kept.


def test_no_secret_stands_in_the_database(world: World, memory: Path):
    person = world.labeller()
    secrets = [people.issue(world.db, person, kind) for kind in ("link", "session", "token")]
    entered = people.enter(world.db, secrets[0])
    assert entered is not None
    kept = b"".join(path.read_bytes() for path in memory.glob("feedback.db*"))
    assert person.pseudonym.encode() in kept, "the files were looked at"
    for secret in [*secrets, entered[1]]:
        assert secret.encode() not in kept and len(secret) >= 43


def test_nobody_else_on_the_machine_can_read_the_store(world: World, memory: Path):
    world.make_task(pair(1))
    files = list(memory.glob("feedback.db*"))
    assert {path.name for path in files} >= {"feedback.db", "feedback.db-wal"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_logs_and_errors_have_no_secret_and_no_text_of_people(world: World, caplog: pytest.LogCaptureFixture, monkeypatch, capfd):
    """Not even when everything breaks: statements are logged without what was bound to them."""
    caplog.set_level(logging.DEBUG)
    world.make_task(pair(1))
    (given,) = world.give(person := world.labeller())
    client = world.client(person)
    token = client.headers["authorization"].split()[1]
    link = people.issue(world.db, person, "link")
    client.get(f"/enter/{link}")
    with world.db.write() as connection:
        connection.exec_driver_sql("alter table events rename to moved")
    answer = client.post(f"/api/assignments/{given.id}", json={"key": new_key(), "act": "skip", "reason": "my private reason"})
    assert answer.status_code in (500, 503)
    ours = [record for record in caplog.records if not record.name.startswith("httpx")]  # which is the client
    said = "".join(f"{record.getMessage()} {record.exc_info}" for record in ours) + "".join(capfd.readouterr()) + answer.text
    for secret in (token, link, people.digest(token), "my private reason"):
        assert secret not in said
    assert "events" not in answer.text, "nor does the answer tell how the store is made"


@pytest.mark.parametrize(
    "url",
    ["postgresql://handrail:the-password@127.0.0.1:1/none", "postgresql://handrail@127.0.0.1:1/none?password=the-password&sslmode=prefer"],
)
def test_a_password_of_the_database_is_not_shown(tmp_path: Path, url: str):
    with pytest.raises(Exception) as refused:
        Database.open(url)
    told = [str(one) for one in chain([refused.value], *pairwise([refused.value]))]
    assert "the-password" not in "".join(told) and "127.0.0.1" in told[0]
    noted = provenance.seen_from(tmp_path, url)
    assert "the-password" not in noted and noted.startswith("postgresql://handrail@127.0.0.1:1/none")
    assert ("sslmode=prefer" in noted) == ("sslmode" in url), "what is no secret stays: it leads back to the store"


# Where it is served.


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"host": "0.0.0.0"}, "--public"),
        ({"host": "192.0.2.1"}, "--public"),
        ({"host": "::"}, "--public"),
        ({"host": "0.0.0.0", "public": "https://labels.example.org", "sign_in": False}, "signing in"),
        ({"host": "127.0.0.1", "public": "https://labels.example.org", "sign_in": False}, "signing in"),  # a proxy stands before it
    ],
)
def test_it_does_not_start_where_others_could_reach_it_unasked(world: World, settings: dict, words: str):
    with pytest.raises(InputError, match=words):
        bound(world.db, ServerSettings(port=0, **settings), None)


def test_an_answer_is_sent_at_once(world: World):
    """asyncio turns off the wait for fuller packets, 40 ms an answer, only on sockets whose protocol is named."""
    _, socket, address = bound(world.db, ServerSettings(port=0), None)
    with socket:
        assert socket.proto == IPPROTO_TCP and address.startswith("http://127.0.0.1:")


def test_without_sign_in_it_is_one_person_and_still_no_other_page(world: World):
    client = world.client(sign_in=False)
    assert client.get("/api/me").json()["role"] == "admin"
    assert client.post("/api/projects", json={"name": "x"}, headers={"origin": "http://evil.example"}).status_code == 403
    assert (
        client.post("/api/projects", json={"name": "x"}, headers={"host": "evil.example", "origin": "http://evil.example"}).status_code
        == 421
    )
    assert client.post("/api/projects", json={"name": "x"}, headers=OWN).status_code == 201


def test_an_item_as_large_as_the_limit_allows_is_taken_in(world: World):
    world.make_task(kind="rate")
    item = Item(prompt=Prompt.of("x" * 10**6), responses=("y" * 10**6,))
    answer = world.client(world.admin()).post(f"/api/tasks/{world.task.id}/items", json=[item.model_dump(mode="json")])
    assert answer.json() == {"new": 1, "known": 0}
