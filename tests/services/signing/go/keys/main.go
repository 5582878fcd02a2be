// Command keys makes a key pair as `cosign generate-key-pair` does: cosign.key and cosign.pub in the directory that is named.
package main

import (
	"log"
	"os"
	"path/filepath"

	"github.com/sigstore/cosign/v3/pkg/cosign"
)

func main() {
	pair, err := cosign.GenerateKeyPair(func(bool) ([]byte, error) { return []byte(os.Getenv("COSIGN_PASSWORD")), nil })
	if err != nil {
		log.Fatal(err)
	}
	for name, text := range map[string][]byte{"cosign.key": pair.PrivateBytes, "cosign.pub": pair.PublicBytes} {
		if err := os.WriteFile(filepath.Join(os.Args[1], name), text, 0o600); err != nil {
			log.Fatal(err)
		}
	}
}
