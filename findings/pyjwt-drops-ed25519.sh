#!/bin/sh
# PyJWT 2.15.1: a key whose `alg` is Ed25519, its name since RFC 9864, is left out of a set without a word.
#
# The same public key is published as EdDSA and as Ed25519. Seen: PyJWKSet keeps the first and drops the second, and
# PyJWK raises PyJWKError for the second alone. Expected: both are keys of one algorithm; RFC 9864 deprecates the name
# EdDSA, so providers move to the other.
#
# Fails if that has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install pyjwt==2.15.1 cryptography==50.0.2
"$folder/venv/bin/python" - <<'PYTHON'
import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm

public = OKPAlgorithm.to_jwk(Ed25519PrivateKey.generate().public_key(), as_dict=True)
old, new = public | {"kid": "old", "alg": "EdDSA"}, public | {"kid": "new", "alg": "Ed25519"}
kept = [key.key_id for key in jwt.PyJWKSet.from_dict({"keys": [old, new]}).keys]
print(kept)
assert kept == ["old"]
try:
    jwt.PyJWK(new)
except jwt.PyJWKError as error:
    print(type(error).__name__)
else:
    raise SystemExit("it is a key now")
PYTHON
