#!/bin/sh
# Everything that make does: installs what is missing, builds, and runs things as the right user.
# Each argument is one word below, done in order; each is quick when there is nothing left to do.
#
# As root, the product is built by root and used by an unprivileged user (SBX_TEST_USER, made when
# missing), so what that user needs lies in /var/lib/sbx-dev, wherever the checkout is.
# As a normal user, everything lies in the checkout, or in the user's cache where the checkout cannot
# be written; sudo is used where it asks for nothing.
set -eu
umask 022
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
unset PYTHONDONTWRITEBYTECODE PYTHONPATH PYTHONHOME || true

checkout=$(cd "$(dirname "$0")/../.." && pwd -P)
test_user=${SBX_TEST_USER:-sbxtest}
key=$(printf %s "$checkout" | sha256sum | cut -c1-12)
if [ "$(id -u)" = 0 ]; then
    state=/var/lib/sbx-dev/$key
    shared=/var/cache/sbx-dev
    venv=${VENV:-$state/venv}
else
    shared=${XDG_CACHE_HOME:-${HOME:-$(getent passwd "$(id -u)" | cut -d: -f6)}/.cache}/sbx-dev
    if [ -w "$checkout" ]; then state=$checkout/build; else state=$shared/$key; fi
    if [ -w "$checkout" ]; then venv=${VENV:-$checkout/.venv}; else venv=${VENV:-$state/venv}; fi
fi
source=$state/src
mkdir -p "$state" "$shared"

say() { printf '== %s\n' "$*" >&2; }
fail() { printf 'setup: error: %s\n' "$1" >&2; [ -z "${2:-}" ] || printf '  hint: %s\n' "$2" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# ---- privileges -------------------------------------------------------------------------------

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; elif have sudo; then sudo -n "$@"; else return 1; fi
}
# On a terminal sudo may ask for its password, once.
can_root() { as_root true >/dev/null 2>&1 || { [ -t 0 ] && have sudo && sudo -v; }; }

user_name() { if [ "$(id -u)" = 0 ]; then echo "$test_user"; else id -un; fi; }
user_home() { getent passwd "$(user_name)" | cut -d: -f6; }

# Runs a command as the unprivileged user, with nothing of the caller's environment but what is named.
as_user() {
    home=$(user_home)
    set -- env -i HOME="$home" USER="$(user_name)" LANG=C.UTF-8 PATH="$venv/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin" \
        ${SBX_CI:+SBX_CI=$SBX_CI} ${SBX_FUZZ_FACTOR:+SBX_FUZZ_FACTOR=$SBX_FUZZ_FACTOR} ${SBX_SOAK:+SBX_SOAK=$SBX_SOAK} ${XDG_RUNTIME_DIR:+XDG_RUNTIME_DIR=$XDG_RUNTIME_DIR} \
        SBX_TEST_SBX="$venv/bin/sbx" SBX_TEST_DEBIAN="$(debian_path)" SBX_TEST_DEBIAN_OWN="$(debian_own_path)" "$@"
    if [ "$(id -u)" = 0 ]; then
        (cd "$home" && exec setpriv --reuid="$test_user" --regid="$test_user" --init-groups \
            --inh-caps=-all env -u XDG_RUNTIME_DIR "$@")
    else
        "$@"
    fi
}

# ---- packages ---------------------------------------------------------------------------------

missing_packages() {
    for name; do
        dpkg-query -W -f '${Status}' "$name" 2>/dev/null | grep -q 'install ok installed' || printf '%s ' "$name"
    done
}

apt() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@" \
        >"$state/apt.log" 2>&1
}

# A fresh machine has no list of packages, and an old list names versions that are gone.
apt_install() {
    have dpkg-query || return 1
    wanted=$(missing_packages "$@")
    [ -n "$wanted" ] || return 0
    can_root || return 1
    say "installing $wanted"
    # shellcheck disable=SC2086  # a list of package names
    set -- install -y --no-install-recommends $wanted
    apt "$@" || { apt update; apt "$@"; } || { tail -n 5 "$state/apt.log" >&2; return 1; }
}

packages_run() {
    apt_install uidmap || have newuidmap ||
        say "uidmap is missing and cannot be installed: sandboxes will have one user id"
    find_python >/dev/null || apt_install python3 python3-venv || true
    links musl-gcc -static || apt_install musl-tools gcc linux-libc-dev || true
}

packages_test() {
    packages_run
    apt_install uidmap debootstrap gcc libc6-dev make libseccomp2 attr acl procps util-linux iproute2 nftables iputils-ping bubblewrap bash zsh fish ||
        say "some packages of the tests are missing: the tests that need them will skip"
    # Clients that go through a sandbox's network, and servers that an installation does not start.
    have psql || apt_install postgresql-client || say "psql is missing"
    have node || apt_install nodejs || say "node is missing"
    have javac || apt_install default-jdk-headless || say "javac is missing"
    apt_install curl git openssh-client dropbear-bin netcat-openbsd iperf3 redis-tools || say "clients are missing: their tests will skip"
    apt_install passt slirp4netns || say "pasta or slirp4netns is missing: the tests of their modes will skip"
    apt_install user-mode-linux kmod e2fsprogs || say "user-mode-linux is missing: nothing runs on a second kernel"
    apt_install qemu-system-x86 busybox-static || say "qemu-system-x86 is missing: no machine with several processors"
    links clang -fsanitize=address,fuzzer-no-link || apt_install clang libclang-rt-dev || apt_install clang ||
        say "clang is missing: the decoder is fuzzed without coverage feedback"
    open_tun
}

# udev gives the device to everybody; a machine without udev keeps it for root.
open_tun() {
    [ "$(stat -c %a /dev/net/tun 2>/dev/null)" = 666 ] || as_root chmod 666 /dev/net/tun ||
        say "/dev/net/tun is not for this user: the tests of networks in user mode will fail or skip"
}

packages_peers() {
    for peer in bubblewrap crun podman firejail iperf3 slirp4netns passt; do
        apt_install $peer || say "$peer cannot be installed: the comparison leaves it out"
    done
}

# ---- the unprivileged user --------------------------------------------------------------------

free_range() {
    cat /etc/subuid /etc/subgid 2>/dev/null |
        awk -F: '{ e = $2 + $3; if (e > m) m = e } END { print (m < 100000 ? 100000 : m) }'
}

make_user() {
    [ "$(id -u)" = 0 ] || return 0
    if ! id -u "$test_user" >/dev/null 2>&1; then
        say "making the unprivileged user $test_user"
        useradd --create-home --shell /bin/sh "$test_user"
    fi
    touch /etc/subuid /etc/subgid
    if ! grep -q "^$test_user:" /etc/subuid || ! grep -q "^$test_user:" /etc/subgid; then
        start=$(free_range)
        sed -i "/^$test_user:/d" /etc/subuid /etc/subgid
        usermod --add-subuids "$start-$((start + 65535))" --add-subgids "$start-$((start + 65535))" "$test_user"
    fi
    # A group beside the primary one, that sandboxes must not keep.
    getent group "$test_user-extra" >/dev/null || groupadd "$test_user-extra"
    id -nG "$test_user" | tr ' ' '\n' | grep -qx "$test_user-extra" || usermod -aG "$test_user-extra" "$test_user"
    chmod 755 /var/lib/sbx-dev "$state" "$shared"
}

# ---- Python -----------------------------------------------------------------------------------

# A Python that the unprivileged user can run too: never one in root's home.
find_python() {
    for candidate in ${PYTHON:-} /usr/bin/python3 /usr/bin/python3.14 /usr/bin/python3.13 /usr/bin/python3.12 \
        /usr/bin/python3.11 /usr/local/bin/python3 "$(command -v python3 || true)"; do
        [ -x "$candidate" ] || continue
        "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
        case $(id -u):$("$candidate" -c 'import sys; print(sys._base_executable)') in 0:/root/*) continue ;; esac
        echo "$candidate"
        return 0
    done
    return 1
}

requirements() {
    "$venv/bin/python" - "$checkout/pyproject.toml" "$1" <<'PY'
import sys, tomllib
data = tomllib.load(open(sys.argv[1], "rb"))
project = data["project"]
names = [*data["build-system"]["requires"], "meson", *project["dependencies"]]
if sys.argv[2] == "dev":
    names += project["optional-dependencies"]["dev"]
print("\n".join(names))
PY
}

make_venv() {
    if ! [ -x "$venv/bin/python" ] || ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then
        python=$(find_python) || apt_install python3-venv && python=$(find_python) ||
            apt_install python3.12-venv python3.12 || apt_install python3.11-venv python3.11 || true
        python=$(find_python) || fail "no Python 3.11 or newer with venv" "install python3 and python3-venv"
        say "making a virtual environment in $venv with $python"
        "$python" -m venv --clear "$venv"
        "$venv/bin/pip" install -qq --disable-pip-version-check --upgrade pip
        "$venv/bin/pip" uninstall -q -y setuptools 2>/dev/null || true
    fi
    wanted=$(requirements "$1")
    [ "$(cat "$venv/requirements-$1" 2>/dev/null)" = "$wanted" ] && return 0
    say "installing Python packages ($1)"
    printf '%s\n' "$wanted" >"$venv/requirements-$1.new"
    "$venv/bin/pip" install -qq --disable-pip-version-check -r "$venv/requirements-$1.new"
    mv "$venv/requirements-$1.new" "$venv/requirements-$1"
}

# ---- build ------------------------------------------------------------------------------------

# links COMPILER FLAG: it makes a program in that way.
links() {
    have "$1" && printf 'int main(void){return 0;}' | "$1" "$2" -x c - -o "$state/probe" 2>/dev/null
}

# The compiler of the static programs: musl first, because the launcher gets smallest with it.
find_cc() {
    if [ -n "${CC:-}" ]; then echo "$CC"; return 0; fi
    for cc in musl-gcc gcc clang cc; do
        links $cc -static && echo "$cc" && return 0
    done
    "$venv/bin/python" -c 'import ziglang' 2>/dev/null ||
        "$venv/bin/pip" install -qq --disable-pip-version-check ziglang >&2 ||
        fail "no C compiler that links statically" "install musl-tools and linux-libc-dev"
    echo "'$venv/bin/python' -m ziglang cc -target $(uname -m)-linux-musl"
}

build() {
    cc=$(find_cc)
    werror=$([ -n "${SBX_CI:-}" ] && echo true || echo false)
    stamp=$( (cd "$checkout" && find sandbox helpers policies meson.build pyproject.toml -type f \
        ! -name '*.pyc' -print0 | sort -z | xargs -0 sha256sum; echo "$cc $werror") | sha256sum)
    [ -x "$venv/bin/sbx" ] && [ "$(cat "$venv/build.stamp" 2>/dev/null)" = "$stamp" ] && return 0
    say "building with $cc and installing into $venv"
    build_dir=$state/meson-$(printf %s "$cc" | sha256sum | cut -c1-8)
    # Where there is no compiler, there is no archiver either.
    case $cc in *ziglang*) export AR="${cc%% cc *} ar" ;; esac
    CC=$cc PATH="$venv/bin:$PATH" "$venv/bin/pip" install -qq --disable-pip-version-check --no-deps --no-index \
        --no-build-isolation --force-reinstall -Cbuild-dir="$build_dir" -Csetup-args=-Dwerror=$werror "$checkout"
    echo "$stamp" >"$venv/build.stamp"
}

# The tree that the unprivileged user reads its tests from. It lacks the package: what is tested
# is the installed one.
sync_source() {
    [ -z "${synced:-}" ] || return 0
    synced=1
    rm -rf "$source"
    mkdir -p "$source"
    tar -C "$checkout" --exclude=./.git --exclude=./build --exclude=./.venv --exclude=./sandbox --exclude='__pycache__' -cf - . |
        tar -C "$source" -xf - --no-same-owner --no-same-permissions
    chmod -R u+w,a+rX "$source"
}

# ---- a Debian root file system for the tests ----------------------------------------------------

debian_packages=gcc,libc6-dev,make,python3,python3-dev,python3-pip,python3-setuptools,python3-wheel

suite() { . /etc/os-release; echo "${VERSION_CODENAME:-}"; }

# The mirror that this machine's own apt uses for its own release, and the name of that there.
mirror() {
    [ -z "${SBX_DEBIAN_MIRROR:-}" ] || { echo "$SBX_DEBIAN_MIRROR $(suite)"; return 0; }
    "${venv}/bin/python" "$checkout/tests/support/apt_mirror.py" "$(suite)"
}

debian_path() { echo "$shared/debian-$(printf %s "$(suite) $debian_packages v1" | sha256sum | cut -c1-8)"; }
debian_own_path() { echo "$(user_home)/.cache/sbx-dev/$(basename "$(debian_path)")-own"; }

make_debian() {
    path=$(debian_path)
    exec 9>"$shared/debian.lock"
    flock 9
    if ! [ -e "$path/usr/bin/gcc" ]; then
        if ! can_root || ! have debootstrap; then
            say "a Debian root file system needs debootstrap and root: tests that use it will skip"
            return 0
        fi
        found=$(mirror) || fail "apt's sources name no mirror for $(suite)" "set SBX_DEBIAN_MIRROR"
        say "making a Debian root file system in $path (about two minutes, once)"
        as_root rm -rf "$path.partial"
        testsuite=$(as_root sh -c 'apt-cache depends python3 2>/dev/null' |
            sed -n 's/^ *Depends: \(python3\.[0-9]*\)$/lib\1-testsuite/p' | head -n 1)
        components=$(. /etc/os-release; [ "${ID:-}" = ubuntu ] && echo main,universe || echo main)
        as_root debootstrap --variant=minbase --components="$components" \
            --include="$debian_packages${testsuite:+,$testsuite}" "${found#* }" "$path.partial" "${found% *}" \
            >"$state/debootstrap.log" 2>&1 || { tail -n 15 "$state/debootstrap.log" >&2; fail "debootstrap failed"; }
        as_root sh -c "rm -rf '$path.partial'/var/cache/apt/archives/*.deb && mv '$path.partial' '$path'"
    fi
    own=$(debian_own_path)
    if [ "$(id -u)" = 0 ] && ! [ -e "$own/usr/bin/gcc" ]; then
        say "copying it into the ids of $test_user: $own"
        as_user mkdir -p "$(dirname "$own")"
        "$venv/bin/python" "$checkout/tests/support/own_rootfs.py" "$path" "$own" "$test_user"
    fi
    exec 9>&-
}

# ---- the words --------------------------------------------------------------------------------

lint() {
    say "ruff and mypy"
    cd "$checkout"
    "$venv/bin/ruff" check --no-cache .
    "$venv/bin/ruff" format --no-cache --check .
    "$venv/bin/mypy" --cache-dir "$state/mypy" sandbox tests bench examples
}

# Builds the C parts with sanitizers and runs their unit tests and a bounded fuzz of the decoder.
native() {
    cc=gcc
    links clang -fsanitize=address,fuzzer-no-link && cc=clang
    say "C tests with AddressSanitizer and UBSan ($cc)"
    dir=$state/sanitize-$cc
    export PATH="$venv/bin:$PATH"
    [ -e "$dir/build.ninja" ] || CC=$cc "$venv/bin/meson" setup "$dir" "$checkout" -Dnative_tests=true \
        -Dwerror=true -Db_sanitize=address,undefined -Db_lundef=false -Dbuildtype=debug >"$state/meson.log" 2>&1 ||
        { tail -n 20 "$state/meson.log" >&2; rm -rf "$dir"; fail "meson setup failed"; }
    "$venv/bin/meson" compile -C "$dir" >"$state/compile.log" 2>&1 || { tail -n 40 "$state/compile.log" >&2; fail "the C parts do not compile"; }
    UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 ASAN_OPTIONS=detect_leaks=0 SBX_FUZZ_SECONDS=${FUZZ_SECONDS:-20} \
        "$venv/bin/meson" test -C "$dir" --no-rebuild --print-errorlogs --timeout-multiplier "${FUZZ_MULTIPLIER:-2}"
}

run_pytest() {
    sync_source
    data=$(user_home)/.cache/sbx-dev/pytest-$key
    as_user sh -c "rm -rf '$data' && mkdir -p '$data'"
    say "pytest as $(user_name)"
    status=0
    as_user env COVERAGE_FILE="$data/coverage" COVERAGE_RCFILE="$source/pyproject.toml" PYTHONDONTWRITEBYTECODE=1 HYPOTHESIS_STORAGE_DIRECTORY="$data/hypothesis" \
        timeout --foreground --signal=INT --kill-after=30 "${PYTEST_SECONDS:-3600}" sh -c 'cd "$1" && shift && exec "$@"' sh "$source" \
        "$venv/bin/python" ${covered:+-m coverage run} -m pytest -p no:cacheprovider ${PYTEST_ARGS:-} || status=$?
    [ -n "${covered:-}" ] || return $status
    say "branch coverage"
    as_user env COVERAGE_FILE="$data/coverage" COVERAGE_RCFILE="$source/pyproject.toml" sh -c 'cd "$1" && "$2" -m coverage combine -q && "$2" -m coverage report' \
        sh "$source" "$venv/bin/python" || true
    return $status
}

# What only root can do. Each test makes network namespaces of its own and a /var/lib/sbx for itself.
run_pytest_root() {
    sync_source
    say "pytest as root"
    (cd "$source" && env PYTHONDONTWRITEBYTECODE=1 SBX_TEST_SBX="$venv/bin/sbx" SBX_TEST_DEBIAN="$(debian_path)" \
        timeout --foreground --signal=INT --kill-after=30 "${PYTEST_SECONDS:-1800}" "$venv/bin/python" -m pytest -p no:cacheprovider \
        ${PYTEST_ROOT_ARGS:-tests/kernel/privileged})
}

# What another kernel may answer differently, in a guest that boots it.
vm_tests="tests/escape/test_probe.py tests/kernel/test_probe.py tests/kernel/test_hold.py
    tests/kernel/test_seccomp_load.py tests/kernel/test_from_host.py tests/kernel/test_disk_upper.py
    tests/kernel/test_keeper.py tests/vm/cgroup tests/vm/root"
run_vm() {
    sync_source
    say "pytest in User-Mode Linux as $(user_name)"
    as_user env PYTHONDONTWRITEBYTECODE=1 sh -c 'cd "$1" && shift && exec "$@"' sh "$source" \
        "$venv/bin/python" -m pytest -p no:cacheprovider -p tests.vm.plugin ${VM_ARGS:-$vm_tests}
}

# As root: the guest's files are root's.
run_vm_systemd() {
    [ "$(id -u)" = 0 ] || fail "the guest with systemd is booted by root" "run make vm-systemd as root"
    sync_source
    system=$shared/systemd-$(suite)
    say "pytest in User-Mode Linux with systemd as $test_user"
    sh "$checkout/tests/vm/system.sh" "$system" "$test_user" || fail "there is no system for the guest"
    (cd "$source" && env -i PATH="$PATH" LANG=C.UTF-8 ${SBX_CI:+SBX_CI=$SBX_CI} SBX_TEST_SBX="$venv/bin/sbx" PYTHONDONTWRITEBYTECODE=1 \
        "$venv/bin/python" -m pytest -p no:cacheprovider -p tests.vm.plugin --vm-system "$system" --vm-user "$test_user" \
        ${VM_SYSTEMD_ARGS:-tests/vm/systemd})
}

# Several processors, every controller and queueing discipline: an emulated machine with the kernel of
# this release.
run_vm_processors() {
    kernel=$shared/kernel-$(suite)
    sync_source
    sh "$checkout/tests/vm/kernel.sh" "$kernel" || fail "there is no kernel for the machine" "it needs apt, busybox and kmod"
    say "pytest on a machine with two processors as $(user_name)"
    as_user env PYTHONDONTWRITEBYTECODE=1 sh -c 'cd "$1" && shift && exec "$@"' sh "$source" \
        "$venv/bin/python" -m pytest -p no:cacheprovider -p tests.vm.plugin --vm-machine "$kernel" ${VM_ARGS:-tests/vm/processors tests/vm/networks}
}

# All, where there can be guests at all; in CI there must be.
run_guests() {
    if [ -z "${SBX_CI:-}" ] && ! have linux.uml; then say "without User-Mode Linux: nothing runs on a second kernel"; return 0; fi
    sync_source
    status=0
    if have qemu-system-x86_64 || [ -n "${SBX_CI:-}" ]; then (run_vm_processors) || status=1; fi
    (run_vm) || status=1
    if [ "$(id -u)" = 0 ] || [ -n "${SBX_CI:-}" ]; then (run_vm_systemd) || status=1; else say "not root: no guest with systemd"; fi
    return $status
}

# The guests run beside the tests on this kernel, which leave most of a processor, and are shown after
# them. They have a session of their own, which ends with this one.
run_tests() {
    sync_source
    synced=1 setsid sh "$checkout/tests/support/setup.sh" guests >"$state/guests.log" 2>&1 </dev/null &
    beside=$!
    trap 'kill -- "-$beside" 2>/dev/null || true' EXIT
    trap 'exit 130' INT TERM
    status=0
    (run_pytest) || status=1
    if [ "$(id -u)" = 0 ]; then (run_pytest_root) || status=1; else say "not root: the tests of networks of the host's do not run"; fi
    say "the guests, which began with the tests"
    wait "$beside" || status=1
    cat "$state/guests.log" >&2
    return $status
}

demo() {
    root=$(user_home)/.cache/sbx-dev/demo-rootfs
    sync_source
    as_user sh "$source/tests/support/demo.sh" "$venv/bin/sbx" "$root"
}

bench() {
    sync_source
    as_user env ${BENCH_ROUNDS:+BENCH_ROUNDS=$BENCH_ROUNDS} sh -c 'cd "$1" && exec "$2" -m bench' sh "$source" "$venv/bin/python"
}

# What control groups add, where there are some: in the guests.
bench_vm() {
    sync_source
    as_user env ${BENCH_ROUNDS:+BENCH_ROUNDS=$BENCH_ROUNDS} sh -c 'cd "$1" && exec "$2" -m tests.vm.show -- "$2" -m bench.groups delegated' \
        sh "$source" "$venv/bin/python"
    [ "$(id -u)" = 0 ] || { say "not root: no guest with systemd"; return 0; }
    sh "$checkout/tests/vm/system.sh" "$shared/systemd-$(suite)" "$test_user"
    (cd "$source" && "$venv/bin/python" -m tests.vm.show --system "$shared/systemd-$(suite)" --user "$test_user" \
        -- "$venv/bin/python" -m bench.groups systemd)
}

# Networks of root's, in network namespaces of their own.
bench_root() {
    [ "$(id -u)" = 0 ] || fail "these networks are root's" "run it as root"
    sync_source
    (cd "$source" && env SBX_TEST_SBX="$venv/bin/sbx" SBX_TEST_DEBIAN="$(debian_path)" \
        ${BENCH_ROUNDS:+BENCH_ROUNDS=$BENCH_ROUNDS} "$venv/bin/python" -m bench.bridge)
}

containment() {
    sync_source
    say "the probe under sbx and its peers: docs/containment.md"
    as_user sh -c 'cd "$1" && exec "$2" -m tests.support.containment "$3"' \
        sh "$source" "$venv/bin/python" "$venv/bin/sbx" >"$state/containment.md"
    cp "$state/containment.md" "$checkout/docs/containment.md"
}

where() {
    say "sbx is installed: $venv/bin/sbx"
    [ "$(id -u)" != 0 ] || say "try it as the user $test_user, for example with: runuser -u $test_user -- $venv/bin/sbx doctor"
}

clean() {
    rm -rf "$checkout/build" "$checkout/.venv"
    [ "$(id -u)" != 0 ] || rm -rf "$state"
}

[ $# -gt 0 ] || fail "no word given" "see the Makefile"
for word; do
    case $word in
        packages-run) packages_run ;;
        packages-test) packages_test ;;
        user) make_user ;;
        venv) make_venv run ;;
        venv-dev) make_venv dev ;;
        build) build ;;
        lint) (lint) ;;
        native) (native) ;;
        fuzz)
            (FUZZ_SECONDS=${FUZZ_SECONDS:-300} FUZZ_MULTIPLIER=30; native)
            (export SBX_FUZZ_FACTOR="${SBX_FUZZ_FACTOR:-20}"; PYTEST_ARGS="-m fuzz tests/unit"; run_pytest)
            ;;
        packages-peers) packages_peers ;;
        containment) containment ;;
        debian) make_debian ;;
        pytest) run_pytest ;;
        coverage) (covered=yes; run_pytest) ;;
        pytest-root) run_pytest_root ;;
        vm) run_vm ;;
        vm-processors) run_vm_processors ;;
        vm-systemd) run_vm_systemd ;;
        guests) run_guests ;;
        tests) run_tests ;;
        demo) demo ;;
        soak) (export SBX_SOAK="${SBX_SOAK:-20}" PYTEST_SECONDS="${PYTEST_SECONDS:-7200}"; PYTEST_ARGS="-rP tests/e2e/test_soak.py tests/e2e/test_kept.py"; run_pytest) ;;
        bench) bench ;;
        bench-root) bench_root ;;
        bench-vm) bench_vm ;;
        where) where ;;
        clean) clean ;;
        as-user) shift; as_user "$@"; exit ;;
        *) fail "unknown word: $word" ;;
    esac
done
