"""Chat models: requests, answers and errors, routing, the circuit breaker, and checks of reported usage."""
