#!/bin/sh
# Run by the PostgreSQL image at its first start. Creates a database for each service, with an owner role for migrations
# and a role for the service itself. Neither can connect to another database.
set -eu

# Passwords are passed by standard input, because process lists show arguments.
run_sql() {
    psql --username "${POSTGRES_USER:-postgres}" --dbname postgres --no-psqlrc --quiet --set ON_ERROR_STOP=1
}

for service in conversations notifications; do
    case $service in
        conversations) password=$CONVERSATIONS_PASSWORD owner_password=$CONVERSATIONS_OWNER_PASSWORD ;;
        notifications) password=$NOTIFICATIONS_PASSWORD owner_password=$NOTIFICATIONS_OWNER_PASSWORD ;;
    esac
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
