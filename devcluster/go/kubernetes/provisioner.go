package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"
)

// provisionerName is what the StorageClasses of the cluster name as their provisioner.
const provisionerName = "devcluster.modelyard/volumes"

// provisioner makes hostPath volumes below one directory of the node.
type provisioner struct{ root string }

var _ controller.Provisioner = (*provisioner)(nil)

// Provision makes the volume of one claim. It may run again for the same claim after a crash, so every step accepts
// what an earlier run left.
func (p *provisioner) Provision(ctx context.Context, options controller.ProvisionOptions) (*v1.PersistentVolume, controller.ProvisioningState, error) {
	params, err := parseParameters(options.StorageClass.Parameters)
	if err != nil {
		return nil, controller.ProvisioningFinished, fmt.Errorf("StorageClass %s: %w", options.StorageClass.Name, err)
	}
	spec := options.PVC.Spec
	if spec.VolumeMode != nil && *spec.VolumeMode == v1.PersistentVolumeBlock {
		return nil, controller.ProvisioningFinished, fmt.Errorf("claim %s/%s: volumeMode Block is not supported; ask for Filesystem", options.PVC.Namespace, options.PVC.Name)
	}
	capacity := spec.Resources.Requests[v1.ResourceStorage]
	volume := volume{root: p.root, name: options.PVName}
	if params.limited {
		err = volume.makeLimited(ctx, capacity.Value())
	} else {
		err = volume.makeDirectory()
	}
	if err == nil {
		err = volume.grant(params)
	}
	if err != nil {
		return nil, controller.ProvisioningFinished, err
	}
	return persistentVolume(options, volume.path()), controller.ProvisioningFinished, nil
}

// Delete removes the volume's data. A volume that is gone already is a success.
func (p *provisioner) Delete(ctx context.Context, pv *v1.PersistentVolume) error {
	volume := volume{root: p.root, name: pv.Name}
	if pv.Spec.HostPath == nil || pv.Spec.HostPath.Path != volume.path() {
		return fmt.Errorf("volume %s: its path is not %s, so it was not made here and is not removed", pv.Name, volume.path())
	}
	return volume.remove(ctx)
}

func persistentVolume(options controller.ProvisionOptions, path string) *v1.PersistentVolume {
	directory := v1.HostPathDirectory
	return &v1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: options.PVName},
		Spec: v1.PersistentVolumeSpec{
			PersistentVolumeReclaimPolicy: *options.StorageClass.ReclaimPolicy,
			AccessModes:                   options.PVC.Spec.AccessModes,
			MountOptions:                  options.StorageClass.MountOptions,
			VolumeMode:                    options.PVC.Spec.VolumeMode,
			Capacity:                      v1.ResourceList{v1.ResourceStorage: options.PVC.Spec.Resources.Requests[v1.ResourceStorage]},
			PersistentVolumeSource: v1.PersistentVolumeSource{
				HostPath: &v1.HostPathVolumeSource{Path: path, Type: &directory},
			},
		},
	}
}

// parameters are a StorageClass's own, parsed.
type parameters struct {
	limited  bool
	mode     os.FileMode
	uid, gid int
}

// parseParameters defaults to what lets a pod of any user write: hostPath volumes know no fsGroup.
func parseParameters(given map[string]string) (parameters, error) {
	result := parameters{mode: 0o777}
	for key, value := range given {
		var err error
		switch key {
		case "limited":
			result.limited, err = strconv.ParseBool(value)
		case "mode":
			var mode uint64
			mode, err = strconv.ParseUint(value, 8, 12)
			result.mode = os.FileMode(mode)
		case "uid":
			result.uid, err = strconv.Atoi(value)
		case "gid":
			result.gid, err = strconv.Atoi(value)
		default:
			return result, fmt.Errorf("parameter %q is unknown; known are limited, mode, uid, gid", key)
		}
		if err != nil {
			return result, fmt.Errorf("parameter %s=%q: %w", key, value, err)
		}
	}
	return result, nil
}

func newProvisionerCommand() *cobra.Command {
	var kubeconfig, root string
	command := &cobra.Command{
		Use:          "provisioner",
		Short:        "makes the volumes of claims as directories or size-limited file systems of this node",
		SilenceUsage: true,
		RunE: func(command *cobra.Command, _ []string) error {
			return runProvisioner(command.Context(), kubeconfig, root)
		},
	}
	command.Flags().StringVar(&kubeconfig, "kubeconfig", "", "how to reach the API server")
	command.Flags().StringVar(&root, "root", "", "directory that holds the volumes")
	return command
}

func runProvisioner(ctx context.Context, kubeconfig, root string) error {
	if !filepath.IsAbs(root) {
		return fmt.Errorf("--root %q: it goes into PersistentVolumes, so it must be an absolute path", root)
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	if ctx == nil {
		ctx = context.Background()
	}
	// One provisioner per cluster: without an election it works at once after a restart.
	controller.NewProvisionController(ctx, client, provisionerName, &provisioner{root: root},
		controller.LeaderElection(false)).Run(ctx)
	return nil
}
