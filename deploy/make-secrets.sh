#!/bin/sh
# Makes the secrets that docker-compose.yml reads, a file for each setting, in `secrets/` or in the directory given. Keeps
# the files that exist. Values in the environment win over random ones: an installation that had its secrets in `.env`
# moves them to files with: set -a; . ./.env; deploy/make-secrets.sh
set -eu

directory=${1:-$(dirname "$0")/../secrets}
mkdir -p "$directory"
cd "$directory"
# Only you can enter the directory. The files themselves are readable, because containers run as other users than you.
chmod 700 .
umask 022

random() {
    od -An -vtx1 -N32 /dev/urandom | tr -d ' \n'
}

keep() { # NAME VALUE
    [ -e "$1" ] || printf '%s\n' "$2" >"$1"
}

keep_database() { # NAME URL OWNER_URL PASSWORD OWNER_PASSWORD
    keep "$1_database_url" "${2:-postgresql://$1:${4:-$(random)}@postgres:5432/$1}"
    # Without an owner of its own, a database elsewhere belongs to the role in its URL.
    [ -z "$2$3" ] || { keep "$1_owner_url" "$3"; return; }
    keep "$1_owner_url" "postgresql://$1_owner:${5:-$(random)}@postgres:5432/$1"
}

keep auth_secret "${CHATS_AUTH_SECRET:-$(random)}"
keep feed_secret "${CHATS_FEED_SECRET:-$(random)}"
keep inbound_secret "${CHATS_INBOUND_SECRET:-$(random)}"
keep inbound_http_secret "${CHATS_INBOUND_HTTP_SECRET:-}"
keep inbound_imap_url "${CHATS_INBOUND_IMAP_URL:-}"
keep flower_basic_auth "${CHATS_FLOWER_BASIC_AUTH:-flower:$(random)}"
keep flower_broker_api "${CHATS_FLOWER_BROKER_API:-}"
keep dkim_key "${CHATS_DKIM_KEY:-}"
keep files_secret_key "${CHATS_FILES_SECRET_KEY:-}"
keep smtp_url "${CHATS_SMTP_URL:-smtp://mailpit:1025}"

keep postgres_password "${POSTGRES_PASSWORD:-$(random)}"
keep_database conversations "${CHATS_CONVERSATIONS_DATABASE_URL:-}" "${CHATS_CONVERSATIONS_OWNER_URL:-}" \
    "${CONVERSATIONS_PASSWORD:-}" "${CONVERSATIONS_OWNER_PASSWORD:-}"
keep_database notifications "${CHATS_NOTIFICATIONS_DATABASE_URL:-}" "${CHATS_NOTIFICATIONS_OWNER_URL:-}" \
    "${NOTIFICATIONS_PASSWORD:-}" "${NOTIFICATIONS_OWNER_PASSWORD:-}"

keep valkey.conf "requirepass ${VALKEY_PASSWORD:-$(random)}"
valkey=$(sed -n 's/^requirepass //p' valkey.conf)
keep broker_url "${CHATS_BROKER_URL:-redis://:$valkey@valkey:6379/0}"
keep redis_url "${CHATS_REDIS_URL:-redis://:$valkey@limits:6379/0}"
