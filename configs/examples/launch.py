#!/usr/bin/python3
"""launch.py NAME PORT ARGUMENT...

Starts QEMU with ARGUMENTs and a card on vnetd's network default. The guest is NAME there,
and PORT of this host leads to its SSH. All of it ends with QEMU. Needs Debian's python3-dbus.
"""

import os
import subprocess
import sys

import dbus

name, host_port, *arguments = sys.argv[1:]
bus = dbus.SystemBus()
manager = dbus.Interface(bus.get_object("org.vnetd1", "/org/vnetd1"), "org.vnetd1.Manager")

forward = dbus.Dictionary({"ports": host_port, "to_port": dbus.UInt16(22)}, signature="sv")
options = dbus.Dictionary({"name": name, "forwards": dbus.Array([forward], signature="a{sv}")}, signature="sv")
path, fds, info = manager.RequestPort("default", options)

fd = fds[0].take()
qemu = subprocess.Popen(
    ["qemu-system-x86_64", *arguments, "-netdev", f"tap,id=n0,fd={fd}", "-device", f"virtio-net-pci,netdev=n0,mac={info['mac']}"],
    pass_fds=[fd],
)
os.close(fd)  # QEMU has its own: the port lives until it ends

port = dbus.Interface(bus.get_object("org.vnetd1", path), "org.vnetd1.Port")
port.WaitForAddress(dbus.UInt32(120_000), timeout=130)
print(f"{name} has an address: ssh -p {host_port} 127.0.0.1", flush=True)
sys.exit(qemu.wait())
