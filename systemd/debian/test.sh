#!/usr/bin/env bash
# test.sh PACKAGE.deb: install, upgrade and remove the package in a clean Debian root. Needs root and debootstrap.
set -euo pipefail
package=$(realpath "$1")
root=$(mktemp -d)
trap 'umount "$root/proc" 2>/dev/null; rm -rf "$root"' EXIT
chmod 0755 "$root"
in_root() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 "$@"; }
expect() { echo "$1"; shift; "$@" || { echo "FAILED: $*" >&2; exit 1; }; }

debootstrap --variant=minbase --include=python3,systemd "$(. /etc/os-release; echo "$VERSION_CODENAME")" "$root" >/dev/null
mount -t proc proc "$root/proc"
cp "$package" "$root/tmp/hashcost.deb"

in_root dpkg -i /tmp/hashcost.deb
expect "the program runs" in_root hashcost --version
expect "as the user of the service too" in_root setpriv --reuid=hashcost --regid=hashcost --clear-groups hashcost --version
expect "the demo runs" in_root hashcost demo --once --machines 5 --seed 7 --csv /tmp/demo.csv
expect "its table has five machines" test "$(tail -n +2 "$root/tmp/demo.csv" | wc -l)" = 5
expect "the unit is right" in_root systemd-analyze verify hashcost.service
expect "the configuration is the service's alone" test "$(stat -c '%a' "$root/etc/hashcost/config.toml")" = 640
expect "secrets are root's alone" test "$(stat -c '%a %U' "$root/etc/hashcost/secrets")" = "700 root"

echo '# mine' >> "$root/etc/hashcost/config.toml"
install -d "$root/var/lib/hashcost"
echo data > "$root/var/lib/hashcost/hashcost.db"
mkdir "$root/newer"
dpkg-deb -R "$package" "$root/newer"
sed -i 's/^Version: .*/&+1/' "$root/newer/DEBIAN/control"
dpkg-deb -Znone --root-owner-group --build "$root/newer" "$root/tmp/newer.deb" >/dev/null
in_root dpkg -i /tmp/newer.deb
expect "an upgrade keeps the configuration" grep -qx '# mine' "$root/etc/hashcost/config.toml"
expect "and runs" in_root hashcost --version

in_root dpkg -r hashcost
expect "removal takes the program away" test ! -e "$root/usr/lib/hashcost"
expect "and the unit" test ! -e "$root/lib/systemd/system/hashcost.service"
expect "and keeps the configuration" test -e "$root/etc/hashcost/config.toml"
in_root dpkg -P hashcost
expect "purging takes the configuration" test ! -e "$root/etc/hashcost/config.toml"
expect "and keeps the data" test -e "$root/var/lib/hashcost/hashcost.db"
