// coredns is CoreDNS with the plugins the cluster needs and no other: the standard set links the SDKs of four clouds.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/hosts"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/template"
)

// The order is the order in which a query meets the plugins. template comes last: it answers everything, and before
// kubernetes it would answer for the cluster's own names too.
func init() {
	dnsserver.Directives = []string{"bind", "ready", "errors", "hosts", "kubernetes", "template"}
}

func main() { coremain.Run() }
