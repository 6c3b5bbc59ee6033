# What boot.sh has looked at inside of the booted system; the first thing that is not so ends it.
set -eu
exec > /out/result 2>&1

property() { systemctl show truetally --property "$1" --value; }

passed() { echo "ok: $1"; }

wait_until() {
    what=$1
    shift
    for _ in $(seq 300); do
        if "$@"; then passed "$what"; return; fi
        sleep 0.1
    done
    echo "not so after 30 s: $what"
    systemctl status truetally --no-pager || true
    exit 1
}

restarted() { [ "$(property NRestarts)" = 1 ] && [ "$(property ActiveState)" = active ] && [ "$(property MainPID)" != "$first" ]; }
reloaded() { [ "$(property ActiveState)" = active ] && [ "$(property StatusText)" != reloading ]; }
failed() { [ "$(property ActiveState)" = failed ]; }

systemctl start truetally
passed "READY=1 ended the start; status: $(property StatusText)"
[ -n "$(property StatusText)" ]
passed "STATUS= arrived"

first=$(property MainPID)
uid=$(stat -c %u "/proc/$first")
[ "$uid" != 0 ]
grep -q "^Seccomp:[[:space:]]2$" "/proc/$first/status"
grep -q "^NoNewPrivs:[[:space:]]1$" "/proc/$first/status"
passed "it runs as the dynamic user $uid, filtered, without new privileges"

[ -S /run/truetally/truetally.sock ]
[ "$(stat -L -c '%a %g' /run/truetally)" = "750 4242" ]
passed "its socket is there, in a directory that its group may enter"
[ "$(stat -L -c %a /var/lib/truetally)" = 700 ]
[ -s /var/lib/truetally/history.sqlite3 ]
passed "its history is where only it may read"

truetally=/opt/truetally/bin/truetally
as() { setpriv --reuid "$1" --regid "$2" --clear-groups "$truetally" status > /dev/null; }
as 0 0
as 4243 4242
passed "root and a member of the group may ask it"
if as 4243 4243 2> /dev/null; then echo "a stranger may ask it"; exit 1; fi
passed "a stranger may not"

systemctl reload truetally
wait_until "it is active after a reload" reloaded
[ "$(property MainPID)" = "$first" ]
[ "$(property NRestarts)" = 0 ]
passed "the reload kept the process; status: $(property StatusText)"

kill -STOP "$first"
wait_until "a frozen daemon is killed by the watchdog and started again" restarted
journalctl -u truetally --no-pager | grep -q "Watchdog timeout"
passed "the journal says so"

systemd-run --quiet --wait --pipe -p MemoryDenyWriteExecute=yes -p SystemCallFilter=@system-service \
    /opt/truetally/bin/python -c "from truetally.app import _settle_memory; _settle_memory()"
passed "memory can be given back under the unit's restrictions"

systemctl stop truetally
[ "$(property ActiveState) $(property Result) $(property ExecMainStatus)" = "inactive success 0" ]
passed "SIGTERM ends it in order"

echo "mistake: yes" >> /etc/truetally/truetally.yaml
systemctl start truetally && { echo "it started with a mistake in its configuration"; exit 1; }
wait_until "a mistake in the configuration makes it fail" failed
[ "$(property ExecMainStatus)" = 2 ]
sleep 1
failed
passed "and it is not started again"
echo "all checks passed"
