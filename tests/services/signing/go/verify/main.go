// Command verify checks an image's signature with cosign's own packages, as `cosign verify --key KEY --private-infrastructure` does.
//
// The whole of cosign takes twice as long to build, for clouds' key stores and policy languages that have no part in it.
package main

import (
	"context"
	"crypto"
	"flag"
	"fmt"
	"os"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/sigstore/cosign/v3/pkg/cosign"
	"github.com/sigstore/cosign/v3/pkg/oci"
	ociremote "github.com/sigstore/cosign/v3/pkg/oci/remote"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
)

func main() {
	key := flag.String("key", "", "file of the public key")
	old := flag.Bool("old", false, "look at the signatures under the tag, not at bundles")
	flag.Parse()
	count, err := verify(context.Background(), *key, flag.Arg(0), *old)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(count)
}

// verify gives the number of statements, or signatures, that the key made about the image.
func verify(ctx context.Context, key, image string, old bool) (int, error) {
	text, err := os.ReadFile(key)
	if err != nil {
		return 0, err
	}
	public, err := cryptoutils.UnmarshalPEMToPublicKey(text)
	if err != nil {
		return 0, err
	}
	verifier, err := signature.LoadVerifier(public, crypto.SHA256)
	if err != nil {
		return 0, err
	}
	reference, err := name.ParseReference(image, name.Insecure)
	if err != nil {
		return 0, err
	}
	options := &cosign.CheckOpts{
		SigVerifier:        verifier,
		IgnoreTlog:         true,
		Offline:            true,
		NewBundleFormat:    !old,
		ClaimVerifier:      cosign.IntotoSubjectClaimVerifier,
		RegistryClientOpts: []ociremote.Option{ociremote.WithNameOptions(name.Insecure)},
	}
	var found []oci.Signature
	if old {
		options.ClaimVerifier = cosign.SimpleClaimVerifier
		found, _, err = cosign.VerifyImageSignatures(ctx, reference, options)
	} else {
		found, _, err = cosign.VerifyImageAttestations(ctx, reference, options, name.Insecure)
	}
	return len(found), err
}
