# SPDX-License-Identifier: Apache-2.0
# The image that stands in for kube-proxy's: the same path, the same command line.
#
#   docker build --tag kube-proxy-bpf .            (podman build, buildah build)
#
# Nothing here names an architecture: amd64, arm64, ppc64le and s390x build alike. BPF objects have
# the byte order of the machine that compiles them, so each platform compiles its own.

ARG BASE=debian:bookworm-slim

# hadolint ignore=DL3006
FROM ${BASE} AS build

# Debian's stable release moves for security fixes only; a version pinned here is gone with the next.
# clang stands in for cc where a Python package has no wheel for the platform (msgspec and PyYAML,
# which wants libyaml, on ppc64le; msgspec on s390x).
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        bpftool clang libbpf-dev libyaml-dev linux-libc-dev llvm make \
        python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

# pip stays in an environment of its own: the one that is shipped holds what runs.
RUN python3 -m venv /opt/pip \
    && python3 -m venv --without-pip /opt/kubeproxy-bpf

WORKDIR /src
COPY . .

# Bytecode without time stamps: it stays valid however a builder treats those of files, and nothing
# is compiled at start, nor written where the root is read-only.
RUN CC=clang PIP_CONSTRAINT=/src/constraints.txt /opt/pip/bin/pip \
        --python /opt/kubeproxy-bpf/bin/python install --no-cache-dir --no-compile --use-pep517 . \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/kubeproxy-bpf/lib

# hadolint ignore=DL3006
FROM ${BASE}

ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="kubeproxy-bpf" \
      org.opencontainers.image.description="An eBPF kube-proxy for every cluster and every CNI plugin" \
      org.opencontainers.image.licenses="Apache-2.0 AND (GPL-2.0-only OR BSD-2-Clause)" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# iptables (of both kinds), nftables and kmod are for what other proxies left on a node and for rules
# of the host's FORWARD chain; no packet of a Service passes through a rule.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        ca-certificates iptables ipvsadm kmod libbpf1 libyaml-0-2 nftables python3 \
    && rm -rf /var/lib/apt/lists/*

COPY --from=build /opt/kubeproxy-bpf /opt/kubeproxy-bpf

# Fails where the environment does not fit the base: another Python, a missing library.
RUN ln -s /opt/kubeproxy-bpf/bin/kube-proxy /usr/local/bin/kube-proxy \
    && /usr/local/bin/kube-proxy --version \
    && /opt/kubeproxy-bpf/bin/python -B -c "import kubeproxy_bpf.app"

ENV PYTHONDONTWRITEBYTECODE=1
ENTRYPOINT ["/usr/local/bin/kube-proxy"]
