# ruff: noqa: E501 - headers stand here as they are on the wire
"""Messages with secrets in every place that redaction knows, in every way that a stranger may write them.

Each secret has ``MARK`` in it, so that one search finds whatever is left of any of them.
"""

import random
from collections.abc import Callable, Iterator

MARK = b"5557319055"
TEXT = b"m5557319055text"
Place = Callable[[bytes], bytes]


def number(secret: bytes) -> bytes:
    """Return a telephone number."""
    return b"49" + secret


def name(secret: bytes) -> bytes:
    return b"n" + secret + b"e"


CREDENTIALS: list[Place] = [
    lambda s: (
        b'Authorization: Digest username="-", realm="r", nonce="%b", uri="/", response="%b", cnonce="%b"' % (s, s, s)
    ),
    lambda s: b'AUTHORIZATION :DIGEST response=%b,nonce="%b",cnonce = "%b",  nc=00000001, qop=auth' % (s, s, s),
    lambda s: b'Proxy-Authorization: Digest realm="r",\r\n nonce="%b",\r\n\tresponse="%b",\r\n opaque="%b"' % (s, s, s),
    lambda s: b'proxy-authorization: digest response="%b' % s,
    lambda s: b'Authorization: Digest response="%b" nonce="%b"' % (s, s),
    lambda s: b"Authorization: Digest response='%b', x" % s,
    lambda s: b'Authorization: Digest auts="%b", auth-param="%b", x-new=%b' % (s, s, s),
    lambda s: b'Authorization: Digest realm="a\\"b,c", response="\\"%b"' % s,
    lambda s: b"Authorization: Basic %b==" % s,
    lambda s: b"authorization:\r\n Bearer\r\n %b.%b" % (s, s),
    lambda s: b"Authorization: %b" % s,
    lambda s: b"Authorization: Strange %b" % s,
    lambda s: b"Authorization: Strange realm=%b" % s,
    lambda s: b"Authorization: NTLM %b, Digest response=%b" % (s, s),
    lambda s: b'WWW-Authenticate: Digest realm="r", nonce="%b", opaque="%b", ik="%b", ck="%b"' % (s, s, s, s),
    lambda s: b'Proxy-Authenticate: Digest realm="r", nonce="%b", Digest realm="s", nonce="%b"' % (s, s),
    lambda s: b"WWW-Authenticate: NTLM %b" % s,
    lambda s: b'Authentication-Info: nextnonce="%b", rspauth="%b", cnonce=%b, qop=auth' % (s, s, s),
    lambda s: b'Proxy-Authentication-Info: rspauth="%b"' % s,
    lambda s: b"Identity: %b;info=<https://example.com/%b>;alg=ES256" % (s, s),
    lambda s: b"y: %b" % s,
    lambda s: b"Y \t: %b" % s,
    lambda s: b"Refer-To: <sip:a@example.com?Replaces=1&Authorization=Digest%%20response%%3D%%22%b%%22>" % s,
    lambda s: b"Contact: <sip:a@example.com?%%41uthorization=Basic%%20%b&Identity=%b>, <sip:b@example.com>" % (s, s),
    lambda s: b"r: <sip:a@b?Refer-To=%%3Csip:c%%3FProxy-Authorization%%3DBasic%%2520%b%%3E>" % s,
    lambda s: b"X: <sip:a@b?a=b&amp;authorization=Basic %b&c=d>" % s,
]
"""Headers."""

KEYS: list[Place] = [
    lambda s: b"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:%b|2^20|1:32" % s,
    lambda s: b"a=crypto:2 AES_CM_128_HMAC_SHA1_32 inline:%b|2^20|1:4;inline:%b KDR=1 FEC_KEY=inline:%b" % (s, s, s),
    lambda s: b"A=CRYPTO: 1 AES_CM_128_HMAC_SHA1_80 INLINE:%b" % s,
    lambda s: b"a=crypto:inline:%b" % s,
    lambda s: b"a=crypto:1 NEW %b x:%b" % (s, s),
    lambda s: b"a=acap:1 crypto:1 AES_CM_128_HMAC_SHA1_80 inline:%b" % s,
    lambda s: b"k=clear:%b" % s,
    lambda s: b"k=base64:%b" % s,
    lambda s: b"k=%b" % s,
    lambda s: b"k=uri:https://example.com/%b" % s,
    lambda s: b"a=key-mgmt:mikey %b" % s,
    lambda s: b"a=key-mgmt:%b" % s,
    lambda s: b"a=acap:2 key-mgmt:mikey %b" % s,
    lambda s: b"a=ice-pwd:%b" % s,
    lambda s: b"a=3ge2ae:%b" % s,
    lambda s: b"a=cryptoscale:1 client AES_CM_128_HMAC_SHA1_80 inline:%b|2^31|1:1" % s,
    lambda s: b"k=prompt:%b" % s,
    lambda s: b" k = clear:%b" % s,
]
"""Lines of SDP."""

IDENTITIES = (b"From", b"To", b"f", b"t", b"Contact", b"M", b"P-Asserted-Identity", b"p-preferred-identity", b"Diversion",
              b"P-Called-Party-ID", b"REMOTE-PARTY-ID", b"Referred-By", b"b", b"History-Info", b"Refer-To", b"r")  # fmt: skip
"""Headers of addresses."""
ADDRESSES: list[Place] = [
    lambda s: b"<sip:%b@example.com>;tag=1" % number(s),
    lambda s: b"sip:+%b@example.com;tag=1" % number(s),
    lambda s: b'"%b" <sips:%b@example.com;user=phone>;tag=1' % (name(s), number(s)),
    lambda s: b"%b Smith <SIP:%b@example.com>" % (name(s), name(s)),
    lambda s: b'"a \\" <%b>, \\\\" <sip:%b:%b@example.com>' % (name(s), name(s), name(s)),
    lambda s: b"<tel:+%b>;tag=1" % number(s),
    lambda s: b"tel:%b;phone-context=+%b" % (number(s), number(s)),
    lambda s: b"<tel:+%b;rn=+%b;npdi;ext=%b>" % (number(s), number(s), number(s)),
    lambda s: b"<sip:+%b;rn=+%b;cic=+%b@example.com;user=phone>" % (number(s), number(s), number(s)),
    lambda s: b"<sip:%%34%%39%b@example.com>" % s,
    lambda s: (
        b'<sip:%b@example.com>, "%b" <sip:%b@example.com>, sip:%b@example.com' % (number(s), name(s), name(s), name(s))
    ),
    lambda s: b"sip:%b@example.com,sip:%b@example.com" % (number(s), number(s)),
    lambda s: b"\r\n <sip:%b@example.com>\r\n ;tag=1" % number(s),
    lambda s: b'"%b"\r\n\t<sip:%b@example.com>' % (name(s), name(s)),
    lambda s: b"<sip:%b%%40home@example.com>" % name(s),
    lambda s: b"<sip:a@%b@example.com>" % name(s),
    lambda s: b"<sip:%b>" % number(s),
    lambda s: b"<sip:%b;user=phone>" % number(s),
    lambda s: b"<%b@example.com>" % name(s),
    lambda s: b"%b@example.com" % name(s),
    lambda s: b"%b" % number(s),
    lambda s: b"<%b>" % number(s),
    lambda s: b'"%b <sip:%b@example.com>' % (name(s), name(s)),
    lambda s: b"<sip:%b@example.com" % name(s),
    lambda s: b"<sip:%b and %b@example.com>" % (name(s), name(s)),
    lambda s: b"<sip:b@example.com?Referred-By=%%3Csip%%3A%b%%40example.com%%3E&Replaces=1%%40x>" % name(s),
    lambda s: b"<sip:b@example.com?Subject=1&P-Asserted-Identity=tel%%3A%%2B%b>" % number(s),
    lambda s: b'<sip:example.com>;x="<sip:%b@example.com>"' % name(s),
    lambda s: b"<pres:%b@example.com>, <im:%b@example.com>" % (name(s), name(s)),
    lambda s: b"<sip:sip:%b@example.com>" % name(s),
    lambda s: b"<sip:a;x=sip:%b@example.com>" % name(s),
    lambda s: b'"%b" sip:%b@example.com' % (name(s), name(s)),
    lambda s: b"%b sip:%b@example.com" % (name(s), name(s)),
    lambda s: b"<msrp://%b@example.com:7394/a;tcp>" % name(s),
]
"""Values of such headers."""
USERS: list[Place] = [
    lambda s: b"Route: <sip:%b@192.0.2.1;lr>" % name(s),
    lambda s: b"P-Associated-URI: <sip:%b@example.com>, <tel:+%b>" % (name(s), number(s)),
    lambda s: b"Alert-Info: <http://example.com>, <sip:%b@example.com>" % name(s),
    lambda s: b'Warning: 399 example.com "no sip:%b@example.com here"' % name(s),
    lambda s: b"X-Anything: sip:%b@example.com and tel:%b" % (name(s), number(s)),
    lambda s: b'Authorization: Digest username="%b", uri="sip:%b@example.com", realm="r"' % (number(s), name(s)),
    lambda s: b'Proxy-Authorization: Digest username=%b@example.com, realm="r"' % name(s),
    lambda s: b'Authorization: Digest uri="%b@example.com", realm="sip:%b@example.com"' % (name(s), name(s)),
    lambda s: b"Authorization: Digest uri=%b" % number(s),
    lambda s: b"Authorization: Digest username*=UTF-8''%b, realm=\"r\"" % name(s),
]
"""Headers with users by the way."""
BODIES: list[tuple[bytes, Place]] = [
    (b"application/sdp", lambda s: b"v=0\r\no=%b 1 1 IN IP4 192.0.2.1\r\ns=-\r\ne=%b@example.com (%b)\r\np=+%b\r\n" % (name(s), name(s), name(s), number(s))),
    (b"application/sdp", lambda s: b"v=0\r\nO = %b X %b 1 1 IN IP4 192.0.2.1\r\ns=-\r\n" % (name(s), name(s))),
    (b"application/sdp", lambda s: b"v=0\r\na=path:msrp://%b@example.com:7394/a;tcp\r\no=%b" % (name(s), name(s))),
    (b"application/rlmi+xml", lambda s: b"<resource uri='sip:%b@h'><rl:name xml:lang='en'>%b</rl:name></resource>" % (name(s), name(s))),
    (b"application/rs-metadata+xml", lambda s: b'<nameID aor="sip:%b@h"><name>%b</name></nameID>' % (name(s), name(s))),
    (b"application/xml", lambda s: b"<a href='sip:b@h?Authorization=Basic%%20%b&amp;b=c'/>" % s),
    (b"text/plain", lambda s: b"Identity: %b" % s),
    (b"message/sipfrag", lambda s: b"INVITE sip:%b@example.com SIP/2.0\r\nf: %b <sip:a@b>\r\nAuthorization: Basic %b\r\n" % (name(s), name(s), s)),
    (b"message/sipfrag;version=2.0", lambda s: b"SIP/2.0 200 OK\r\nTo: <tel:%b>\r\n" % number(s)),
    (b"application/pidf+xml", lambda s: b'<presence entity="pres:%b@example.com"><contact>tel:+%b</contact></presence>' % (name(s), number(s))),
    (b"application/reginfo+xml", lambda s: b'<registration aor="sip:%b@example.com"><uri>sip:%b@192.0.2.1</uri><display-name>%b</display-name></registration>' % (name(s), name(s), name(s))),
    (b"application/dialog-info+xml", lambda s: b'<identity display="%b">sip:%b@example.com</identity><target uri="sip:%b@example.com"/>' % (name(s), name(s), name(s))),
    (b"application/resource-lists+xml", lambda s: b'<entry uri="&#115;ip:%b@example.com"/>' % name(s)),
    (b"text/plain", lambda s: b"call sip:%b@example.com or tel:%b" % (name(s), number(s))),
    (b"application/simple-message-summary", lambda s: b"Message-Account: sip:%b@example.com\r\n" % name(s)),
    (b"application/json", lambda s: b'{"number": "%b"}' % number(s)),
    (b"application/isup;version=itu-t92+", lambda s: b"\x01\x00" + number(s)),
    (b"text/vcard", lambda s: b"TEL:%b" % number(s)),
    (b"application/xml;charset=utf-16", lambda s: b"<" + number(s)),
    (b"multipart/mixed;boundary=x", lambda s: b"--x\r\nContent-Type: application/sdp\r\n\r\nv=0\r\no=%b 1 1 IN IP4 192.0.2.1\r\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:%b\r\n--x\r\nContent-Type: application/pidf+xml\r\n\r\n<p entity=\"sip:%b@example.com\"/>\r\n--x\r\nContent-Type: text/plain\r\nContent-Transfer-Encoding: base64\r\n\r\n%b\r\n--x--\r\n" % (name(s), s, name(s), s)),
    (b"multipart/mixed;boundary=x", lambda s: b"a=crypto:1 x inline:%b\r\n--x\r\na=crypto:1 A_B inline:%b\r\n\r\nsip:%b@h\r\n--x--\r\nk=clear:%b\r\nAuthorization: Basic %b" % (s, s, s, s, s)),
    (b'multipart/related; boundary="y y"', lambda s: b"--y y\nContent-Type: message/sip\n\nBYE sip:%b@h SIP/2.0\nTo: sip:%b@h\n\n--y y--\n" % (name(s), name(s))),
]  # fmt: skip
"""Types and bodies with users in them."""


class Secrets:
    """Makes secrets, each one new."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> bytes:
        self.count += 1
        return MARK + b"%06d" % self.count


def messages(secrets: Secrets, count: int, seed: int = 1) -> Iterator[bytes]:
    """Yield messages, each with many secrets; all that a redactor of everything hides, for the header X-Secret too."""
    draw = random.Random(seed)
    for place in range(count):
        yield message(draw, secrets, place)


def message(draw: random.Random, secrets: Secrets, place: int) -> bytes:
    """Return one message."""
    body_type, body = BODIES[place % len(BODIES)]
    text = body(secrets())
    method = b"INVITE"
    if place % 5 == 1:
        method, body_type, text = draw.choice((b"MESSAGE", b"INFO")), b"text/plain", TEXT + secrets()
    elif place % 5 == 2:
        lines = [draw.choice(KEYS)(secrets()) for _ in range(3)]
        body_type, text = b"application/sdp", b"\r\n".join([b"v=0", b"o=- 1 1 IN IP4 192.0.2.1", b"s=-", *lines, b""])
    elif place % 5 == 3:
        body_type, text = b"application/sdp\r\nContent-Encoding: gzip", b"\x1f\x8b" + secrets()
    headers = [b"%b: %b" % (draw.choice(IDENTITIES), draw.choice(ADDRESSES)(secrets())) for _ in range(4)]
    headers += [draw.choice(CREDENTIALS)(secrets()), draw.choice(CREDENTIALS)(secrets())]
    headers += [draw.choice(USERS)(secrets()), b"x-SECRET: %b" % secrets()]
    draw.shuffle(headers)
    first = draw.choice([b"%b sip:%b@example.com SIP/2.0", b"%b tel:+%b SIP/2.0"]) % (method, number(secrets()))
    if place % 7 == 3:
        first = b"SIP/2.0 200 OK"
    lines = [
        first,
        b"Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK%d" % place,
        *headers,
        b"Call-ID: planted-%d@example.com" % place,
        b"CSeq: 1 " + method,
        b"Content-Type: " + body_type,
        b"Content-Length: %d" % len(text),
    ]
    made = b"\r\n".join([*lines, b"", text])
    return draw.choice(VARIANTS)(made)


VARIANTS: list[Place] = [
    *[lambda made: made] * 8,
    lambda made: made.replace(b"\r\n", b"\n"),
    lambda made: b"\r\n\r\n" + made,
    lambda made: made.replace(b"\r\n\r\n", b"\r\n", 1),
    lambda made: made[: len(made) * 3 // 4],
    lambda made: made.replace(b"\r\nVia", b"\0\r\nVia", 1),
    lambda made: made.replace(b"Via:", b"X-Latin: \xff\xfe\r\nVia:", 1),
    lambda made: made.replace(b"\r\nVia", b"\rVia", 1),
    lambda made: made.replace(b"Via:", b"Via", 1),
    lambda made: made.replace(b" SIP/2.0\r\n", b"\r\n", 1),
    lambda made: made + b"\r\n" + made,
    lambda made: made.replace(b"Content-Length: ", b"L : 1"),
]
"""What else may be strange about a message."""
