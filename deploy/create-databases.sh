#!/bin/sh
# What the image of PostgreSQL runs on its first start: a database for each service, with a role that owns it, for
# migrations, and one that works with its rows. Neither can connect to another database.
set -eu

# The passwords go in by standard input: arguments are in every process list.
ask() {
    psql --username "${POSTGRES_USER:-postgres}" --dbname postgres --no-psqlrc --quiet --set ON_ERROR_STOP=1
}

for service in conversations notifications; do
    case $service in
        conversations) password=$CONVERSATIONS_PASSWORD owner_password=$CONVERSATIONS_OWNER_PASSWORD ;;
        notifications) password=$NOTIFICATIONS_PASSWORD owner_password=$NOTIFICATIONS_OWNER_PASSWORD ;;
    esac
    ask <<SQL
create role ${service}_owner login password '$owner_password';
create role $service login password '$password';
create database $service owner ${service}_owner;
revoke connect, temporary on database $service from public;
grant connect on database $service to $service;
SQL
done

ask <<SQL
revoke connect on database postgres, template1 from public;
SQL
