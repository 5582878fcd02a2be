//go:build tools

// Package tools pins the version of cosign itself.
package tools

import _ "github.com/sigstore/cosign/v3/cmd/cosign"
