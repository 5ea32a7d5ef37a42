"""What a program does with libvirt's Python binding: prints what it sees."""
import threading
import libvirt

NAMES = {0: "defined", 1: "undefined", 2: "started", 3: "stopped"}
PORT = """<networkport>
  <uuid>aaaaaaaa-0000-4000-8000-000000000001</uuid>
  <owner><name>guest</name><uuid>bbbbbbbb-0000-4000-8000-000000000001</uuid></owner>
  <mac address='52:54:00:12:34:56'/>
</networkport>"""

libvirt.registerErrorHandler(lambda _ctx, _err: None, None)
libvirt.virEventRegisterDefaultImpl()


def loop():
    while True:
        libvirt.virEventRunDefaultImpl()


threading.Thread(target=loop, daemon=True).start()
conn = libvirt.open("network:///system")
conn.setKeepAlive(5, 3)
seen, enough = [], threading.Event()


def lifecycle(_conn, net, event, _detail, _opaque):
    seen.append(f"{net.name()} {NAMES[event]}")
    if len(seen) == 4:
        enough.set()


callback = conn.networkEventRegisterAny(None, libvirt.VIR_NETWORK_EVENT_ID_LIFECYCLE, lifecycle, None)
net = conn.networkDefineXML(open("lab.xml").read())
print("persistent", net.isPersistent(), "active", net.isActive())
net.create()
print("bridge", net.bridgeName(), "leases", net.DHCPLeases())
print("numbers", conn.numOfNetworks(), conn.numOfDefinedNetworks(), conn.listNetworks())
port = net.portCreateXML(PORT)
port.setParameters({"inbound.average": 128})
print("limit", port.parameters()["inbound.average"])
print("ports", [p.UUIDString() for p in net.listAllPorts()])
port.delete()
net.update(libvirt.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST, libvirt.VIR_NETWORK_SECTION_DNS_TXT, -1,
           "<txt name='note' value='x'/>", libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE)
print("updated", "name='note'" in net.XMLDesc())
try:
    conn.networkLookupByName("none")
except libvirt.libvirtError as err:
    print("error", err.get_error_code(), err.get_error_domain(), err.get_str2())
net.destroy()
net.undefine()
print("events in order", enough.wait(30), seen)
conn.networkEventDeregisterAny(callback)
print("closed", conn.close())
