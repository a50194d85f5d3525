#!/bin/bash
# The machine of infra/host.yaml: docker/compose.yaml's services, dumps of their database in S3. User data installs this
# as forecast-host; docs/aws/day_two.md says when to use what.
#
#   forecast-host status           the services
#   forecast-host start            start what has stopped
#   forecast-host backup           dump Dagster's database to S3; cron does it every night
#   forecast-host backups          the dumps there are
#   forecast-host restore [DUMP]   put a dump in the database's place, by default the newest
#   forecast-host update [MINUTES] the newest release: waits for runs under way (12 hours at most), dumps, migrates, starts
#   forecast-host update now       the same without waiting: runs under way are stopped, and begun again
set -euo pipefail

FOLDER=${HOST_FOLDER:-/opt/forecast}
RELEASE=$FOLDER/release
set -a
# BUCKET, NAME, LOG_GROUP, AWS_DEFAULT_REGION, written by user data
. "$FOLDER/host.env"
set +a
DUMPS=s3://$BUCKET/backups/dagster

compose() {
    docker compose -f "$RELEASE/docker/compose.yaml" -f "$RELEASE/docker/awslogs.yaml" \
        --env-file "$RELEASE/docker/aws.env" "$@"
}

# Of a release: the stack's settings; own.env, what people set beside them; the password, which is made once on this machine
# and never leaves it; and a tag of the release's own for its image, so that one that is built and not used yet is not
# started by chance.
settings() {
    local password=$FOLDER/postgres.env
    umask 077
    [ -s "$password" ] \
        || echo "DAGSTER_POSTGRES_PASSWORD=$(head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n')" > "$password"
    aws s3 cp "s3://$BUCKET/host/aws.env" - > "$1/docker/aws.env"
    [ ! -e "$FOLDER/own.env" ] || cat "$FOLDER/own.env" >> "$1/docker/aws.env"
    # The line break ends what people left without one.
    { echo; cat "$password"; } >> "$1/docker/aws.env"
    echo "PLATFORM_IMAGE=forecast-platform:$(date -u +%Y%m%d%H%M%S)" >> "$1/docker/aws.env"
    umask 022
}

backups() {
    aws s3api list-objects-v2 --bucket "$BUCKET" --prefix backups/dagster/ --query 'Contents[].Key' --output text \
        | tr '\t' '\n' | sed -n 's|.*/\([^/]*\.dump\)$|\1|p' | sort
}

backup() {
    local name dump
    name=$(date -u +%Y-%m-%dT%H%M%SZ).dump
    dump=$(mktemp)
    # Whole before it is sent, so that what lies in S3 is never half a dump.
    compose exec -T postgres pg_dump -U dagster --format=custom dagster > "$dump"
    aws s3 cp --only-show-errors "$dump" "$DUMPS/$name"
    rm "$dump"
    aws cloudwatch put-metric-data --namespace Forecast --metric-name Backups --value 1 --dimensions "Installation=$NAME"
    echo "$name"
}

restore() {
    local name dump
    name=${1:-$(backups | tail -n 1)}
    [ -n "$name" ] || { echo "there is no dump below $DUMPS" >&2; exit 1; }
    dump=$(mktemp)
    aws s3 cp --only-show-errors "$DUMPS/$name" "$dump"
    compose stop daemon webserver dashboard code
    compose exec -T postgres dropdb -U dagster --if-exists --force dagster
    compose exec -T postgres createdb -U dagster dagster
    compose exec -T postgres pg_restore -U dagster --exit-on-error --no-owner --dbname dagster < "$dump"
    rm "$dump"
    migrate
    start
    echo "restored $name"
}

# Once a release: Dagster's tables as the release wants them.
migrate() {
    compose run --rm -T code dagster instance migrate
}

start() {
    compose up -d --remove-orphans
}

update() {
    local minutes=${1:-720} new=$FOLDER/release.new
    rm -rf "$new"
    mkdir "$new"
    aws s3 cp --only-show-errors "s3://$BUCKET/host/release.tar.gz" - | tar -xzf - -C "$new"
    settings "$new"
    (RELEASE=$new; compose build)
    # Without the daemon nothing leaves the queue, and without the webserver nobody starts a run by hand. Whatever goes wrong
    # until the releases are exchanged, both come back.
    trap 'compose start daemon webserver' EXIT
    compose stop daemon webserver
    if [ "$minutes" != now ] && ! compose exec -T code python -m forecast_platform.draining "$minutes"; then
        echo "not updated: runs are still under way; later, or: forecast-host update now" >&2
        exit 1
    fi
    backup
    trap - EXIT
    compose stop code dashboard
    rm -rf "$RELEASE.old"
    mv "$RELEASE" "$RELEASE.old"
    mv "$new" "$RELEASE"
    command_and_cron
    migrate
    start
    docker image prune --all --force
}

command_and_cron() {
    install -m 755 "$RELEASE/infra/host.sh" "${HOST_BIN:-/usr/local/bin}/forecast-host"
    # cron has a PATH of its own.
    printf '%s\n' 'PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/snap/bin' '17 2 * * * root forecast-host backup' \
        > "${HOST_CRON:-/etc/cron.d}/forecast"
}

# By user data. A machine that takes another's place begins with its newest dump.
first() {
    settings "$RELEASE"
    command_and_cron
    compose build
    compose up -d --wait postgres
    newest=$(backups | tail -n 1)
    if [ -n "$newest" ]; then
        restore "$newest"
    else
        migrate
        start
        backup
    fi
}

case ${1:-} in
    install) first ;;
    status) compose ps ;;
    start | backup | backups) "$1" ;;
    restore | update) "$@" ;;
    *) sed -n '5,11p' "$0"; exit 2 ;;
esac
