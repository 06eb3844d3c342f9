#!/usr/bin/env bash
# boot.sh PACKAGE.deb: boot a clean Debian root with systemd, run the installed service there against a simulated site, strike
# it, upgrade and remove it. Needs root, debootstrap and systemd-nspawn; nothing of the host is changed.
set -euo pipefail
package=$(realpath "$1")
root=$(mktemp -d)
container=
finish() {
    [ -z "$container" ] || kill -KILL "$container" 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$root" "$root.console"
}
trap finish EXIT
chmod 0755 "$root"
expect() { echo "$1"; shift; "$@" || { echo "FAILED: $*" >&2; tell; exit 1; }; }
tell() { inside journalctl --no-pager -u 'hashcost*' -n 40 >&2 || true; }

boot() {
    systemd-nspawn --quiet --directory="$root" --register=no --keep-unit --private-network --console=pipe --boot \
        </dev/null >"$root.console" 2>&1 &
    container=$!
    until init=$(pgrep -P "$container") && inside systemctl is-system-running 2>/dev/null | grep -qx -e running -e degraded; do
        kill -0 "$container" 2>/dev/null || { echo "FAILED: it does not boot" >&2; cat "$root.console" >&2; exit 1; }
        sleep 0.5
    done
}
inside() {
    nsenter --target "$init" --mount --pid --uts --ipc --net --cgroup --root --wdns=/ \
        env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 "$@" </dev/null
}
shut_down() { inside systemctl poweroff; wait "$container" || true; container=; }
within() { # within SECONDS COMMAND...: until it is so
    local end=$((SECONDS + $1)); shift
    until "$@"; do [ "$SECONDS" -lt "$end" ] || return 1; sleep 0.5; done
}
is() { [ "$(inside systemctl show --value --property="$2" "$1")" = "$3" ]; }
sees() { # sees N: so many machines, each by its MAC
    inside hashcost status --json 2>/dev/null | python3 -c "import json, sys
sys.exit(sum(each['mac'] is not None for each in json.load(sys.stdin)['machines']) != $1)"
}
exposed_little() { inside systemd-analyze security --threshold=15 --no-pager "$1.service" >/dev/null; }
logged() { inside journalctl --no-pager --unit=hashcost | grep "$1" >/dev/null; }  # to its end: not -q
was_restarted() { [ "$(inside systemctl show --value --property=NRestarts hashcost)" = "$1" ] && is hashcost ActiveState active; }

debootstrap --variant=minbase --include=python3,systemd,systemd-sysv,dbus \
    "$(. /etc/os-release; echo "$VERSION_CODENAME")" "$root" >/dev/null
cp "$package" "$root/root/hashcost.deb"
boot
inside dpkg -i /root/hashcost.deb >/dev/null

# a site of six machines, as a unit of its own that is there again after the next boot
cat > "$root/etc/systemd/system/site.service" <<'UNIT'
[Service]
Environment=PYTHONPATH=/usr/lib/hashcost
ExecStart=/usr/bin/python3 -m drivers.simulator --machines 6 --seed 7 --speed 20 --detached
[Install]
WantedBy=multi-user.target
UNIT
cat > "$root/etc/hashcost/config.toml" <<'CONFIG'
[scan]
addresses = ["127.77.0.1-250"]
[poll]
interval_s = 2.0
deadline_s = 2.0
[credentials.antminer]
username = "root"
password_credential = "antminer"
CONFIG
echo root | install -m 0600 /dev/stdin "$root/etc/hashcost/secrets/antminer"
install -d "$root/etc/systemd/system/hashcost.service.d"
printf '[Service]\nWatchdogSec=10\nTimeoutAbortSec=2\n' > "$root/etc/systemd/system/hashcost.service.d/faster.conf"
inside systemctl daemon-reload
inside systemctl enable --quiet --now site

expect "the service is ready" inside systemctl enable --quiet --now hashcost hashcost-backup.timer hashcost-export.timer
expect "and reads every machine, by the password that only root can read" within 60 sees 6
expect "its user may not read that" inside setpriv --reuid=hashcost --regid=hashcost --clear-groups \
    sh -c '! cat /etc/hashcost/secrets/antminer 2>/dev/null'
expect "as systemd sees it, it is exposed to at most 1.5" exposed_little hashcost
for job in hashcost-backup hashcost-export; do
    expect "$job does its work under its own restrictions" inside systemctl start "$job"
done
expect "there is a copy" inside sh -c 'ls /var/lib/hashcost/backups/hashcost-*.db >/dev/null'
expect "there are the files of yesterday" inside sh -c 'ls /var/lib/hashcost/exports/ledger-*.csv >/dev/null'
inside sh -c 'cd /var/lib/hashcost/exports && touch -d "500 days ago" ledger-2020-01-01.csv && touch -d "300 days ago" kept.csv'
expect "old files are cleaned up" inside systemctl start systemd-tmpfiles-clean
expect "once they are old" inside sh -c 'cd /var/lib/hashcost/exports && test ! -e ledger-2020-01-01.csv && test -e kept.csv'
expect "and nothing else is" inside sh -c 'cd /var/lib/hashcost && test -e hashcost.db && ls backups/hashcost-*.db >/dev/null'

printf '[curtailment]\nmode = "observe"\n' >> "$root/etc/hashcost/config.toml"
expect "a new configuration is taken in" inside systemctl reload hashcost
expect "and told" within 20 logged event=reloaded
echo 'nonsense = 1' >> "$root/etc/hashcost/config.toml"
inside systemctl reload hashcost
expect "a wrong one is refused" within 20 logged event=reload_refused
expect "and the old one stays" is hashcost ActiveState active
sed -i '/nonsense/d' "$root/etc/hashcost/config.toml"

inside systemctl kill --signal=KILL hashcost
expect "killed, it is started again" within 60 was_restarted 1
inside systemctl kill --signal=STOP hashcost
expect "stopped, its watchdog starts it again" within 60 was_restarted 2
expect "the watchdog it was" logged 'Watchdog timeout'
expect "and it reads every machine" within 60 sees 6
before=$(date +%s)
inside systemctl stop hashcost
expect "it stops within ten seconds" test $(($(date +%s) - before)) -le 10
expect "by itself" is hashcost Result success

inside env PYTHONPATH=/usr/lib/hashcost python3 -c 'import asyncssh
print(asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip(), "anna")' \
    > "$root/etc/hashcost/authorized_keys"
expect "the terminal over SSH starts" inside systemctl start hashcost-ssh
expect "and listens" within 30 inside sh -c 'grep -q ":08AE " /proc/net/tcp'
expect "exposed little as well" exposed_little hashcost-ssh
inside systemctl stop hashcost-ssh

shut_down
boot
expect "it is there after a boot" within 60 is hashcost ActiveState active
expect "with all its machines" within 60 sees 6

main=$(inside systemctl show --value --property=MainPID hashcost)
mkdir "$root/root/newer"
dpkg-deb -R "$package" "$root/root/newer"
sed -i 's/^Version: .*/&+1/' "$root/root/newer/DEBIAN/control"
dpkg-deb -Znone --root-owner-group --build "$root/root/newer" "$root/root/newer.deb" >/dev/null
inside dpkg -i /root/newer.deb >/dev/null
expect "an upgrade starts it anew" within 60 is hashcost ActiveState active
expect "as another process" test "$main" != "$(inside systemctl show --value --property=MainPID hashcost)"
inside dpkg -r hashcost >/dev/null
expect "removal stops it" is hashcost ActiveState inactive
expect "takes the timers away" inside sh -c '! systemctl cat hashcost-backup.timer 2>/dev/null'
expect "and keeps the data" test -e "$root/var/lib/hashcost/hashcost.db"
shut_down
