#!/usr/bin/env bash
# build.sh PYTHON OUTPUT_DIRECTORY: hashcost as a Debian package, with the locked packages inside and none of the host's.
set -euo pipefail
python=$1 output=$2
cd "$(dirname "$0")/../.."
version=$("$python" -c 'import tomllib; print(tomllib.load(open("pyproject.toml", "rb"))["project"]["version"])')
minor=$("$python" -c 'import sys; print(sys.version_info.minor)')
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 0755 "$root"

"$python" -m pip install --quiet --disable-pip-version-check --require-hashes --no-compile \
  --target "$root/usr/lib/hashcost" -r requirements/run.txt
cp -r agent drivers tui "$root/usr/lib/hashcost/"
"$python" - "$root/usr/lib/hashcost" "$version" <<'END'
import pathlib, shutil, sys
library, version = pathlib.Path(sys.argv[1]), sys.argv[2]
information = library / f"hashcost-{version}.dist-info"
information.mkdir()
(information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: hashcost\nVersion: {version}\n")
for cache in [*library.rglob("__pycache__"), library / "bin"]:
    shutil.rmtree(cache, ignore_errors=True)
END
install -D -m 0755 systemd/debian/hashcost "$root/usr/bin/hashcost"
install -d "$root/lib/systemd/system" "$root/usr/lib/hashcost/systemd"
install -m 0644 systemd/*.service "$root/lib/systemd/system/"
find systemd -maxdepth 1 -name '*.timer' -exec install -m 0644 -t "$root/lib/systemd/system" {} +
cp -r systemd/*.service systemd/config.toml systemd/sysusers.d systemd/tmpfiles.d "$root/usr/lib/hashcost/systemd/"
install -D -m 0644 systemd/sysusers.d/hashcost.conf "$root/usr/lib/sysusers.d/hashcost.conf"
install -D -m 0644 systemd/tmpfiles.d/hashcost.conf "$root/usr/lib/tmpfiles.d/hashcost.conf"
install -D -m 0640 systemd/config.toml "$root/etc/hashcost/config.toml"
install -D -m 0644 LICENSE "$root/usr/share/doc/hashcost/copyright"
cp -r systemd/examples "$root/usr/share/doc/hashcost/examples"
install -m 0644 systemd/sshd-hashcost.conf "$root/usr/share/doc/hashcost/"
cp -r systemd/monitoring "$root/usr/share/doc/hashcost/monitoring"

install -d "$root/DEBIAN"
echo /etc/hashcost/config.toml > "$root/DEBIAN/conffiles"
install -m 0755 systemd/debian/postinst systemd/debian/prerm systemd/debian/postrm "$root/DEBIAN/"
cat > "$root/DEBIAN/control" <<END
Package: hashcost
Version: $version
Architecture: $(dpkg --print-architecture)
Maintainer: hashcost developers <hashcost@localhost>
Depends: python3 (>= 3.$minor), python3 (<< 3.$((minor + 1))), systemd
Section: net
Priority: optional
Installed-Size: $(du -sk "$root" | cut -f1)
Description: per-machine profitability of a Bitcoin mining site
 Reads every ASIC of a site, works out its margin at this minute's hashprice and
 power price, and puts machines to sleep that lose money. Holds the Python
 packages that it was tested with.
END
mkdir -p "$output"
dpkg-deb --root-owner-group -Zxz --build "$root" "$output/hashcost_${version}_$(dpkg --print-architecture).deb"
