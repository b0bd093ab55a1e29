"""UPnP: a real `miniupnpd` forwards a port; whatever else answers is bounded and named."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from namespaces import PUBLIC_IP, Nat, inside, internet, upnp_router
from programs import program, python

from eigen.node.libp2p import upnp_messages as messages
from eigen.node.libp2p.upnp_messages import GATEWAYS, SERVICES, BadAnswer, Refused

SCRIPT = str(Path(__file__).with_name("node_at_home.py"))
URL = "http://192.168.1.1:5000/rootDesc.xml"
DESCRIPTION = f"""<?xml version="1.0"?>
<root xmlns="urn:schemas-upnp-org:device-1-0"><device><serviceList>
<service><serviceType>urn:other</serviceType><controlURL>/other</controlURL></service>
<service><serviceType>{SERVICES[2]}</serviceType><controlURL>/ppp</controlURL></service>
<service><serviceType>{SERVICES[1]}</serviceType><controlURL>/ctl/IPConn</controlURL></service>
</serviceList></device></root>""".encode()
FAULT = b"""<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><s:Fault>
<detail><UPnPError xmlns="urn:schemas-upnp-org:control-1-0"><errorCode>718</errorCode>
<errorDescription>ConflictInMappingEntry</errorDescription></UPnPError></detail>
</s:Fault></s:Body></s:Envelope>"""


def found(url=URL, status="HTTP/1.1 200 OK", target=GATEWAYS[0]):
    return f"{status}\r\nST: {target}\r\nLocation: {url}\r\n\r\n".encode()


def test_a_router_is_found_by_its_answer_and_its_description():
    assert messages.location(found(), "192.168.1.1") == URL
    wanted = (SERVICES[1], "http://192.168.1.1:5000/ctl/IPConn")
    assert messages.service(DESCRIPTION, URL) == wanted


@pytest.mark.parametrize(
    "reply",
    [
        found(url="http://192.168.1.7:5000/rootDesc.xml"),
        found(url="https://192.168.1.1/"),
        found(url="file:///etc/passwd"),
        found(url="http://192.168.1.1:99999999/"),
        found(status="NOTIFY * HTTP/1.1"),
        found(target="urn:schemas-upnp-org:device:MediaServer:1"),
        b"",
    ],
)
def test_nobody_sends_this_node_elsewhere(reply):
    with pytest.raises(BadAnswer):
        messages.location(reply, "192.168.1.1")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "document type"),
        (b"<a>" + b" " * messages.XML_BYTES_MAX + b"</a>", "bytes"),
        (b"<a>" + b"<b/>" * (messages.XML_ELEMENTS_MAX + 2) + b"</a>", "elements"),
        (b"<a>", "not XML"),
        (DESCRIPTION.replace(b"/ctl/", b"http://10.0.0.1/ctl/"), "not at the device"),
        (b"<a></a>", "maps no ports"),
    ],
)
def test_descriptions_are_bounded(body, why):
    with pytest.raises(BadAnswer, match=why):
        messages.service(body, URL)


def test_faults_have_a_code():
    with pytest.raises(Refused) as refusal:
        messages.answer(FAULT)
    assert refusal.value.code == messages.CONFLICT


@given(st.binary(max_size=300))
def test_other_bytes_are_bad_answers_and_nothing_else(data):
    for read in (lambda: messages.location(data, "192.168.1.1"), lambda: messages.answer(data)):
        try:
            read()
        except BadAnswer:
            continue


@given(st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=50))
def test_what_is_called_arrives(text):
    text = text.strip()
    _, body = messages.call(SERVICES[0], "Say", {"What": text})
    assert messages.answer(body)["What"] == text


def forwarded(router):
    rules = inside(router, ["nft", "list", "chain", "inet", "upnp", "prerouting_miniupnpd"])
    return subprocess.run(rules, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
async def test_a_real_router_forwards_the_port_and_peers_dial_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    with internet(Nat.KEEPS_PORT, Nat.SYMMETRIC) as net:
        home, other = net.homes
        public = inside(net.public, python(SCRIPT, f"/ip4/{PUBLIC_IP}/tcp/4001"))
        async with program(upnp_router(home, tmp_path)), program(public) as hub:
            address = str(await hub.line("address"))

            def node(space):
                return inside(space, python(SCRIPT, "/ip4/0.0.0.0/tcp/4001", address))

            async with program(node(home.space)) as alice:
                with trio.fail_after(30):
                    while (await alice.line("state"))["dialable"] is not True:
                        pass
                assert f"dnat ip to {home.ip}:4001" in forwarded(home.router)
                async with program(node(other.space)) as bob:
                    name = str(await bob.line("account"))
                    with trio.fail_after(30):
                        while (await alice.line("state"))["ways"].get(name) != "direct":
                            pass
                alice.process.send_signal(signal.SIGINT)
                await alice.process.wait()
                assert "dnat" not in forwarded(home.router), "the port is closed again"
