"""Statistics and figures of attention graphs."""

if __name__ == "analysis":  # by its bare name, from a checkout
    from attngraph._siblings import use_full_name

    use_full_name(__name__)
