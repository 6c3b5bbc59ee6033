package main

import (
	"k8s.io/component-base/cli"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
)

func init() {
	roles["kube-controller-manager"] = func() int { return cli.Run(controllers.NewControllerManagerCommand()) }
}
