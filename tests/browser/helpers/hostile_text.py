"""Texts that try to inject markup or to break the layout."""

RUN = "document.title='run'"
"""The script that an injection would run: it changes the page's title, which tests check."""

LINE = {
    "markup": f'<b>bold</b> <img src=x onerror="{RUN}"> &amp; </title></textarea><script>{RUN}</script>',
    "template": "{{7*7}} ${7*7} <%= 7*7 %> %(name)s {0} {name}",
    "right to left": "\u202eecived ruoy kcehc\u202c \u05e2\u05d1\u05e8\u05d9\u05ea English \u2067\u05d0\u05d6\u2069",
    "zalgo": "z" + "\u0322\u0321\u0355\u0316\u0301\u0302\u0303\u0304\u0305\u0306\u0307" * 12 + "algo",
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈🇩🇪" * 6,
    "without a space": "W" * 200,
    "quotes": f"\" ' ` onmouseover=alert(1) autofocus onfocus={RUN} javascript:{RUN}",
}
"""Each of these fits into a subject or a name."""

TEXT = LINE | {
    "10,000 characters": "W" * 10_000,
    "many lines": "\n".join("line" for _ in range(200)),
    "links": f'https://example.com/"onmouseover="{RUN} javascript:{RUN} http://[::1]:99999/ http://a.ex/{"a" * 3000}',
    "invisible characters": "begin \u200b\u200d\ufeff\u2028\u2029 end",
}
"""Each of these fits into a message."""
