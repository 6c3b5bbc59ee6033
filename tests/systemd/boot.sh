#!/bin/sh
# Boot a real systemd with the shipped unit, and see it start, reload, be restarted when it hangs, and stop.
#
# Runs as root, needs systemd-nspawn and uv ($UV), and changes nothing on the machine: the booted system is an
# overlay over it. Exits with 77 if it cannot run.
set -eu

top=$(cd "$(dirname "$0")/../.." && pwd)
uv=${UV:-uv}
for needed in systemd-nspawn "$uv" /usr/bin/python3; do
    command -v "$needed" >/dev/null || { echo "NOT RUN: $needed is missing" >&2; exit 77; }
done
[ "$(id -u)" = 0 ] || { echo "NOT RUN: only root can boot a machine" >&2; exit 77; }

work=$(mktemp -d /dev/shm/truetally-boot.XXXXXX)
root=$work/root
clean_up() {
    umount "$root" 2>/dev/null || true
    rm -rf "$work"
}
trap clean_up EXIT INT TERM
mkdir "$work/upper" "$work/work" "$work/out" "$root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/work" "$root"

# Debian's own Python: others may lie under /root, which ProtectHome= closes. An own prefix inside the
# overlay would leave wrong paths in the scripts, so the venv is made as /opt/truetally of the overlay.
rm -rf "$root/opt/truetally"
/usr/bin/python3 -m venv --without-pip "$root/opt/truetally"
"$uv" pip install --quiet --python "$root/opt/truetally/bin/python" "$top"
sed -i "1s|^#!.*|#!/opt/truetally/bin/python|" "$root/opt/truetally/bin/truetally"

cp "$top/systemd/truetally.service" "$root/etc/systemd/system/"
mkdir -p "$root/etc/systemd/system/truetally.service.d" "$root/etc/truetally/credentials"
echo secret-of-the-nas > "$root/etc/truetally/credentials/nas1-api-key"
chmod 0700 "$root/etc/truetally/credentials"
cp "$top/tests/systemd/truetally.yaml" "$root/etc/truetally/truetally.yaml"
cp "$top/tests/systemd/kubeconfig.yaml" "$root/etc/truetally/credentials/cluster1-kubeconfig"
cp "$top/tests/systemd/boot_checks.sh" "$root/opt/"
cat > "$root/etc/systemd/system/truetally.service.d/boot.conf" <<EOF
[Service]
LoadCredential=nas1-api-key:/etc/truetally/credentials/nas1-api-key
LoadCredential=cluster1-kubeconfig:/etc/truetally/credentials/cluster1-kubeconfig
WatchdogSec=3s
RestartSec=100ms
Group=storage-operators
EOF
cat > "$root/etc/systemd/system/boot-checks.service" <<EOF
[Unit]
DefaultDependencies=no
Requires=basic.target
After=basic.target
[Service]
Type=oneshot
ExecStart=/bin/sh /opt/boot_checks.sh
ExecStopPost=/bin/sh -c 'journalctl -u truetally --no-pager > /out/journal; systemctl poweroff -ff'
TimeoutStartSec=120s
EOF
echo "storage-operators:x:4242:" >> "$root/etc/group"

timeout 180 systemd-nspawn -q --register=no --keep-unit -D "$root" --bind="$work/out:/out" --private-network \
    --boot systemd.unit=boot-checks.service > "$work/out/console" 2>&1 < /dev/null || true

cat "$work/out/result" 2>/dev/null || true
if ! grep -qx "all checks passed" "$work/out/result" 2>/dev/null; then
    tail -60 "$work/out/journal" "$work/out/console" 2>/dev/null >&2 || true
    echo "FAILED" >&2
    exit 1
fi
