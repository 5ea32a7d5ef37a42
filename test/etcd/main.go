// Command etcd is the server of the etcd that go.mod here names, beside Debian's older one, for
// make e2e-span-new. It takes the arguments and settings of etcd.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
