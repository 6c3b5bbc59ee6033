// One binary that is, by its first argument, etcd, kube-apiserver or kube-controller-manager.
//
// It is linked from the released sources as Go modules, so that a developer's machine needs
// Go and nothing else: no containers, no downloads of binaries. "sa-key FILE" makes the key
// that service account tokens are signed with, so that openssl is not needed either.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
)

var roles = map[string]func() int{
	"etcd":           runEtcd,
	"kube-apiserver": func() int { return cli.Run(apiserver.NewAPIServerCommand()) },
	"sa-key":         writeSigningKey,
}

func main() {
	if len(os.Args) > 1 {
		if role, known := roles[os.Args[1]]; known {
			os.Args = os.Args[1:]
			os.Exit(role())
		}
	}
	fmt.Fprintln(os.Stderr, "usage: controlplane etcd | kube-apiserver | kube-controller-manager | sa-key FILE")
	os.Exit(2)
}

func runEtcd() int {
	etcdmain.Main(os.Args)
	return 0
}

func writeSigningKey() int {
	if err := signingKeyTo(os.Args[len(os.Args)-1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func signingKeyTo(path string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	block := &pem.Block{Type: "EC PRIVATE KEY", Bytes: der}
	return os.WriteFile(path, pem.EncodeToMemory(block), 0o600)
}
