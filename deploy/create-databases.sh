#!/bin/sh
# What the image of PostgreSQL runs on its first start: a database for each service, owned by a role of its own that
# can connect to no other.
set -eu

for service in conversations notifications; do
    case $service in
        conversations) password=$CONVERSATIONS_PASSWORD ;;
        notifications) password=$NOTIFICATIONS_PASSWORD ;;
    esac
    # The password goes in by standard input: arguments are in every process list.
    psql --username "${POSTGRES_USER:-postgres}" --dbname postgres --no-psqlrc --quiet --set ON_ERROR_STOP=1 <<SQL
create role $service login password '$password';
create database $service owner $service;
revoke connect, temporary on database $service from public;
SQL
done

psql --username "${POSTGRES_USER:-postgres}" --dbname postgres --no-psqlrc --quiet --set ON_ERROR_STOP=1 \
    --command 'revoke connect on database postgres, template1 from public'
