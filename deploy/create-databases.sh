#!/bin/sh
# Run by the PostgreSQL image at its first start. Creates a database for each service, with an owner role for migrations
# and a role for the service itself. Neither can connect to another database. The passwords are those in the secrets.
set -eu

# Passwords are passed by standard input, because process lists show arguments.
run_sql() {
    psql --username "${POSTGRES_USER:-postgres}" --dbname postgres --no-psqlrc --quiet --set ON_ERROR_STOP=1
}

password_in() {
    sed -n 's|^[^:]*://[^:]*:\([^@]*\)@.*|\1|p' "/run/secrets/$1"
}

for service in conversations notifications; do
    password=$(password_in ${service}_database_url)
    owner_password=$(password_in ${service}_owner_url)
    [ -n "$password" ] && [ -n "$owner_password" ] || { echo "No password in the secrets ${service}_*_url" >&2; exit 1; }
    run_sql <<SQL
create role ${service}_owner login password '$owner_password';
create role $service login password '$password';
create database $service owner ${service}_owner;
revoke connect, temporary on database $service from public;
grant connect on database $service to $service;
SQL
done

run_sql <<SQL
revoke connect on database postgres, template1 from public;
SQL
