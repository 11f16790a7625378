# SPDX-License-Identifier: Apache-2.0
"""A process of ours, as far as the devices of a node notice it."""

from kubeproxy_bpf.dataplane.devices import DeviceHooks, Wish
from kubeproxy_bpf.dataplane.places import Hook, Place

WISH = Wish()


def program_id(bpf_object, name):
    return bpf_object.programs[name].info().id


class Process:
    """What a process of ours has of the devices."""

    def __init__(self, node, bpf_object, pins, **options):
        self.node = node
        self.hooks = node.do(lambda: DeviceHooks(bpf_object.programs, pins, **options))
        self.ingress = program_id(bpf_object, "kpb_tc_ingress")
        self.egress = program_id(bpf_object, "kpb_tc_egress")

    def sync(self, *places, wish=WISH):
        self.node.do(lambda: self.hooks.sync({place: wish for place in places}))

    def end(self):
        self.node.do(self.hooks.close)


def places(ifindex, name):
    return Place(ifindex, name, Hook.INGRESS), Place(ifindex, name, Hook.EGRESS)
