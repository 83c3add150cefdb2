// Command peer is the go-libp2p peer of the interoperability matrix.
package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/autonatv2"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/quic-go/quic-go"
)

const usage = `peer listen MULTIADDR [--OPTION VALUE]…
peer dial MULTIADDR OPERATION [--OPTION VALUE]…
peer hole-punch listen RELAY
peer hole-punch dial RELAY PEER_ID
peer link listen MULTIADDR
peer link dial MULTIADDR [--millis N] [--size N]`

// options have the defaults of the README.
type options struct {
	code      uint64
	count     int
	inFlight  int64
	key       string
	millis    int64
	noReset   bool
	parallel  int
	peerFacts bool
	refuse    string
	retry     bool
	seconds   int
	seed      int
	size      int64
	timeout   int
}

// result is what is printed: a line of JSON.
type result map[string]any

// errUnsupported is for what go-libp2p, or this peer, cannot do.
var errUnsupported = errors.New("unsupported")

func main() {
	opts, words, err := parse(os.Args[1:])
	if err == nil {
		err = run(opts, words)
	}
	if err == nil {
		return
	}
	if errors.Is(err, errRelayed) {
		os.Exit(3)
	}
	printLine(result{"ok": false, "error": err.Error()})
	switch {
	case errors.Is(err, errUnsupported):
		os.Exit(3)
	case errors.Is(err, context.DeadlineExceeded):
		os.Exit(2)
	}
	os.Exit(1)
}

func run(opts options, words []string) error {
	switch {
	case len(words) == 2 && words[0] == "listen":
		return listen(words[1], opts)
	case len(words) == 3 && words[0] == "dial":
		return dial(words[1], words[2], opts)
	case len(words) > 2 && words[0] == "hole-punch":
		return holePunch(words[1:], opts)
	case len(words) == 3 && words[0] == "link":
		return link(words[1], words[2], opts)
	}
	return errors.New(usage)
}

// parse takes options before, between and after the words, which package flag does not.
func parse(arguments []string) (options, []string, error) {
	var opts options
	flags := flag.NewFlagSet("peer", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.Uint64Var(&opts.code, "code", 42, "error code of a reset or stop")
	flags.IntVar(&opts.count, "count", 100, "pings or streams")
	flags.Int64Var(&opts.inFlight, "in-flight", 1<<62, "bytes of an echo that are under way at most")
	flags.StringVar(&opts.key, "key", "ed25519", "type of the host key")
	flags.Int64Var(&opts.millis, "millis", 6000, "how long a download over a link takes")
	flags.BoolVar(&opts.noReset, "no-reset", false, "do not reset the stream of a dial-back that was closed")
	flags.IntVar(&opts.parallel, "parallel", 100, "streams at a time")
	flags.BoolVar(&opts.peerFacts, "peer-facts", false, "ask the listener for its facts after the operation")
	flags.StringVar(&opts.refuse, "refuse", "", "refuse connections: context, gater or limit")
	flags.BoolVar(&opts.retry, "retry", false, "validate every address with a Retry packet")
	flags.IntVar(&opts.seconds, "seconds", 5, "how long idle or slow-reader wait")
	flags.IntVar(&opts.seed, "seed", -1, "what the host key is made from, if it is to be the same again")
	flags.Int64Var(&opts.size, "size", 1<<20, "bytes to transfer")
	flags.IntVar(&opts.timeout, "timeout", 60, "seconds that an operation may take")
	var words []string
	for len(arguments) > 0 {
		if !strings.HasPrefix(arguments[0], "--") {
			words = append(words, arguments[0])
			arguments = arguments[1:]
			continue
		}
		if err := flags.Parse(arguments); err != nil {
			return opts, nil, err
		}
		arguments = flags.Args()
	}
	return opts, words, nil
}

func listen(addr string, opts options) error {
	h, err := newHost(opts, libp2p.ListenAddrStrings(addr))
	if err != nil {
		return err
	}
	defer h.Close()
	serve(h, watchEnds(h, printLine))
	if _, err := startAutoNAT(h, opts); err != nil {
		return err
	}
	h.Network().Notify(&network.NotifyBundle{
		ConnectedF: func(_ network.Network, conn network.Conn) {
			printLine(result{
				"connected": conn.RemotePeer().String(),
				"from":      conn.RemoteMultiaddr().String(),
				"facts":     facts(conn),
			})
		},
	})
	addrs := h.Network().ListenAddresses()
	if len(addrs) == 0 {
		return errors.New("no address")
	}
	printLine(result{"listen": fmt.Sprintf("%s/p2p/%s", addrs[0], h.ID())})

	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM)
	input := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(input)
	}()
	select {
	case <-terminated:
	case <-input:
	}
	return nil
}

func dial(addr, operation string, opts options) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(opts.timeout)*time.Second)
	defer cancel()
	// Reads and writes do not take a context.
	time.AfterFunc(time.Duration(opts.timeout)*time.Second, func() {
		printLine(result{"ok": false, "error": "timed out"})
		os.Exit(2)
	})
	target, err := ma.NewMultiaddr(addr)
	if err != nil {
		return err
	}
	info, err := peer.AddrInfoFromP2pAddr(target)
	if err != nil {
		return err
	}
	listening := libp2p.NoListenAddrs
	if operation == "autonat" {
		listening = libp2p.ListenAddrStrings(beside(target))
	}
	h, err := newHost(opts, listening)
	if err != nil {
		return err
	}
	defer h.Close()
	serve(h, watchEnds(h, func(result) {}))
	var nat *autonatv2.AutoNAT
	if operation == "autonat" {
		// Before the host connects: it learns from that who is a server.
		if nat, err = startAutoNAT(h, opts); err != nil {
			return err
		}
	}

	if operation == "wrong-peer" {
		return wrongPeer(ctx, h, *info)
	}
	start := time.Now()
	if err := h.Connect(ctx, *info); err != nil {
		return err
	}
	dialMS := time.Since(start).Milliseconds()
	conns := h.Network().ConnsToPeer(info.ID)
	if len(conns) == 0 {
		return errors.New("no connection")
	}
	negotiated := facts(conns[0])
	start = time.Now()
	remote := &remote{ctx: ctx, host: h, id: info.ID, nat: nat}
	seen, err := remote.run(operation, opts)
	if err != nil {
		return err
	}
	if opts.peerFacts {
		if seen["peer_facts"], err = remote.ask(factsProtocol); err != nil {
			return err
		}
	}
	seen["ok"] = true
	seen["dial_ms"] = dialMS
	seen["ms"] = time.Since(start).Milliseconds()
	seen["facts"] = negotiated
	printLine(seen)
	return nil
}

func newHost(opts options, more ...libp2p.Option) (host.Host, error) {
	kinds := map[string]int{"ecdsa": crypto.ECDSA, "ed25519": crypto.Ed25519, "rsa": crypto.RSA, "secp256k1": crypto.Secp256k1}
	kind, ok := kinds[opts.key]
	if !ok {
		return nil, fmt.Errorf("%w: key of type %s", errUnsupported, opts.key)
	}
	key, _, err := crypto.GenerateKeyPair(kind, 2048)
	if opts.seed >= 0 {
		seed := bytes.Repeat([]byte{byte(opts.seed)}, ed25519.SeedSize)
		key, err = crypto.UnmarshalEd25519PrivateKey(ed25519.NewKeyFromSeed(seed))
	}
	if err != nil {
		return nil, err
	}
	strict, err := strictness(opts)
	if err != nil {
		return nil, err
	}
	all := append([]libp2p.Option{
		libp2p.Identity(key),
		libp2p.Transport(libp2pquic.NewTransport),
		libp2p.DisableRelay(),
		libp2p.UserAgent("go-libp2p"),
	}, strict...)
	return libp2p.New(append(all, more...)...)
}

// facts are what quic-go and crypto/tls tell of the handshake.
func facts(conn network.Conn) result {
	var quicConn *quic.Conn
	if !conn.As(&quicConn) {
		return nil
	}
	state := quicConn.ConnectionState().TLS
	return result{
		"alpn":               state.NegotiatedProtocol,
		"certificates":       len(state.PeerCertificates),
		"cipher_suite":       state.CipherSuite,
		"key_exchange_group": state.CurveID.String(),
		"server_name":        state.ServerName,
	}
}

var output sync.Mutex

func printLine(line result) {
	output.Lock()
	defer output.Unlock()
	text, err := json.Marshal(line)
	if err != nil {
		text = []byte(`{"ok": false, "error": "no JSON"}`)
	}
	fmt.Println(string(text))
}
