package libvirtrpc

import "context"

// procs is what can be called, by libvirt's numbers (remote_protocol.x).
func procs() map[int32]*proc {
	table := map[int32]*proc{
		66: method("virConnectAuthList", needsNothing, readNothing, authList).first(),
		70: method("virConnectAuthPolkit", needsNothing, readNothing, authPolkit),

		1:   method("virConnectOpen", needsAuth, readOpen, connectOpen).first(),
		2:   method("virConnectClose", needsAuth, readNothing, connectClose).first(),
		60:  method("virConnectSupportsFeature", needsAuth, (*decoder).int32, connectFeature).first(),
		3:   method("virConnectGetType", needsOpen, readNothing, connectType),
		110: method("virConnectGetURI", needsOpen, readNothing, connectURI),
		149: method("virConnectIsSecure", needsOpen, readNothing, connectIsSecure),
		157: method("virConnectGetLibVersion", needsOpen, readNothing, connectLibVersion),
		360: method("virConnectRegisterCloseCallback", needsOpen, readNothing, accept),
		361: method("virConnectUnregisterCloseCallback", needsOpen, readNothing, accept),
		419: method("virConnectSetIdentity", needsOpen, readIdentity, connectSetIdentity).first(),

		36:  method("virConnectListDefinedNetworks", needsOpen, (*decoder).int32, listNames(false)),
		38:  method("virConnectListNetworks", needsOpen, (*decoder).int32, listNames(true)),
		50:  method("virConnectNumOfDefinedNetworks", needsOpen, readNothing, countNetworks(false)),
		52:  method("virConnectNumOfNetworks", needsOpen, readNothing, countNetworks(true)),
		283: method("virConnectListAllNetworks", needsOpen, readListAll, listAllNetworks),

		46:  method("virNetworkLookupByName", needsOpen, (*decoder).string, lookupByName),
		47:  method("virNetworkLookupByUUID", needsOpen, (*decoder).uuid, lookupByUUID),
		40:  method("virNetworkCreateXML", needsWrite, (*decoder).string, createXML),
		41:  method("virNetworkDefineXML", needsWrite, (*decoder).string, defineXML),
		432: method("virNetworkDefineXMLFlags", needsWrite, readDocument, defineXMLFlags),
		437: method("virNetworkCreateXMLFlags", needsWrite, readDocument, createXMLFlags),

		39:  onNetwork("virNetworkCreate", needsWrite, start),
		42:  onNetwork("virNetworkDestroy", needsWrite, stop),
		49:  onNetwork("virNetworkUndefine", needsWrite, undefine),
		44:  onNetwork("virNetworkGetAutostart", needsOpen, getAutostart),
		45:  onNetwork("virNetworkGetBridgeName", needsOpen, getBridgeName),
		152: onNetwork("virNetworkIsActive", needsOpen, isActive),
		153: onNetwork("virNetworkIsPersistent", needsOpen, isPersistent),
		43:  method("virNetworkGetXMLDesc", needsOpen, readNetworkFlags, getXMLDesc),
		48:  method("virNetworkSetAutostart", needsWrite, readNetworkValue, setAutostart),
		291: method("virNetworkUpdate", needsWrite, readUpdate, updateNetwork),
		341: method("virNetworkGetDHCPLeases", needsOpen, readLeases, getDHCPLeases),
		444: method("virNetworkSetMetadata", needsWrite, readSetMetadata, setMetadata),
		445: method("virNetworkGetMetadata", needsOpen, readGetMetadata, getMetadata),

		404: method("virNetworkListAllPorts", needsOpen, readListPorts, listAllPorts),
		405: method("virNetworkPortLookupByUUID", needsOpen, readPortRef, lookupPort),
		406: method("virNetworkPortCreateXML", needsWrite, readPortDocument, createPort),
		407: method("virNetworkPortGetParameters", needsOpen, readGetParams, getPortParams),
		408: method("virNetworkPortSetParameters", needsWrite, readSetParams, setPortParams),
		409: method("virNetworkPortGetXMLDesc", needsOpen, readPortFlags, getPortXML),
		410: method("virNetworkPortDelete", needsWrite, readPortFlags, deletePort),

		313: method("virConnectNetworkEventRegisterAny", needsOpen, readRegister, registerEvent).first(),
		314: method("virConnectNetworkEventDeregisterAny", needsOpen, (*decoder).int32, deregisterEvent).first(),
	}
	for number, name := range lacking() {
		table[number] = method(name, needsOpen, readNothing, func(context.Context, *session, noArgs, *encoder) error {
			return &Error{codeNoSupport, domainDaemon, name}
		})
	}
	return table
}

// lacking are functions that libvirt's network driver has not either, and that
// clients ask for all the same, looking for guests or for what the host is. They are
// told so in libvirt's words. Other numbers are not known, which means the same to
// clients.
func lacking() map[int32]string {
	return map[int32]string{
		4:   "virConnectGetVersion",
		5:   "virConnectGetMaxVcpus",
		6:   "virNodeGetInfo",
		7:   "virConnectGetCapabilities",
		51:  "virConnectNumOfDomains",
		59:  "virConnectGetHostname",
		71:  "virConnectNumOfStoragePools",
		102: "virNodeGetFreeMemory",
		111: "virNodeNumOfDevices",
		126: "virConnectNumOfInterfaces",
		139: "virConnectNumOfSecrets",
		178: "virConnectNumOfNWFilters",
		203: "virConnectGetSysinfo",
		273: "virConnectListAllDomains",
		281: "virConnectListAllStoragePools",
		284: "virConnectListAllInterfaces",
		285: "virConnectListAllNodeDevices",
		286: "virConnectListAllNWFilters",
		287: "virConnectListAllSecrets",
		312: "virConnectGetCPUModelNames",
		316: "virConnectDomainEventRegisterAny",
		342: "virConnectGetDomainCapabilities",
		347: "virNodeAllocPages",
		401: "virConnectListAllNWFilterBindings",
	}
}
