// Verify reads certificates, one a line in hexadecimal. For each it prints which peer it proves to
// go-libp2p, or why go-libp2p refuses it.
package main

import (
	"bufio"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"os"

	"github.com/libp2p/go-libp2p/core/peer"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
)

// longestLine is that of a certificate twice as long as any that is accepted.
const longestLine = 64 * 1024

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, longestLine)
	out := bufio.NewWriter(os.Stdout)
	for lines.Scan() {
		if id, err := verify(lines.Text()); err != nil {
			fmt.Fprintf(out, "refused %q\n", err)
		} else {
			fmt.Fprintf(out, "peer %s\n", id)
		}
		// The caller waits for each answer.
		if err := out.Flush(); err != nil {
			fail(err)
		}
	}
	if err := lines.Err(); err != nil {
		fail(err)
	}
}

// verify does what crypto/tls and libp2p do with the certificate of a peer.
func verify(line string) (peer.ID, error) {
	der, err := hex.DecodeString(line)
	if err != nil {
		return "", err
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return "", err
	}
	key, err := libp2ptls.PubKeyFromCertChain([]*x509.Certificate{certificate})
	if err != nil {
		return "", err
	}
	return peer.IDFromPublicKey(key)
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "verify:", err)
	os.Exit(1)
}
